//! A folder whose power can be cut. Listens at the seam through which our own files are read and written, takes note of what
//! was synced, and tells what is left of the rest.
//!
//! The model is stricter than any file system in use: a sync makes durable what it names and nothing else, the bytes of a
//! file or the entries of a folder. Everything else is lost, or by chance some of it: of each file and each name on its own,
//! except that a rename is one step (nothing is at both of its names, or at neither).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::io::Errno;
use state_store::{FaultyDisk, FileCall};

/// What of that which no sync has reached is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// All of it.
    Everything,
    /// By chance: names on their own, files whole or torn. The number seeds the chance.
    Parts(u64),
}

/// Number of a file or a folder.
type Inode = u64;
type Entries = BTreeMap<OsString, Inode>;

#[derive(Debug, Clone)]
enum Content {
    Folder(Entries),
    File(Vec<u8>),
}

struct Durable {
    content: Content,
    /// Open, so that nothing else is given its number.
    _held: File,
}

struct State {
    durable: BTreeMap<Inode, Durable>,
    calls: u64,
    /// Every call from this one on finds no power.
    cut_at: u64,
    /// Told by the first of them.
    when_cut: Option<Box<dyn FnOnce() + Send>>,
}

/// The folder, under power until a call that was named.
pub struct Power {
    root: PathBuf,
    state: Arc<Mutex<State>>,
    _disk: FaultyDisk,
}

impl Power {
    /// What is there is durable. The power fails when so many calls were let through.
    pub fn cut_after(root: &Path, calls: u64) -> Self {
        Self::cut_with(root, calls, || ())
    }

    /// The same of a power that something else is on, too, which is told.
    pub fn cut_with(root: &Path, calls: u64, when_cut: impl FnOnce() + Send + 'static) -> Self {
        let when_cut = Some(Box::new(when_cut) as _);
        let mut state = State { durable: BTreeMap::new(), calls: 0, cut_at: calls, when_cut };
        state.add_all(root);
        let state = Arc::new(Mutex::new(state));
        let told = Arc::clone(&state);
        let disk = FaultyDisk::heard(root, move |call, path| told.lock().hear(call, path));
        Self { root: root.to_owned(), state, _disk: disk }
    }

    /// Calls that were made, those without power among them.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Cuts the power now.
    pub fn cut(&self) {
        self.state.lock().cut_at = 0;
    }

    /// Writes into a new folder what there is when the power is back.
    pub fn leave(&self, lost: Lost, into: &Path) {
        let state = self.state.lock();
        let mut after =
            After { durable: &state.durable, now: BTreeMap::new(), places: BTreeMap::new(), kept: BTreeSet::new() };
        after.look(&self.root);
        let mut chance = match lost {
            Lost::Everything => None,
            Lost::Parts(seed) => Some(ChaCha8Rng::seed_from_u64(seed)),
        };
        if let Some(chance) = &mut chance {
            let met: BTreeSet<Inode> = after.durable.keys().chain(after.places.keys()).copied().collect();
            after.kept = met.into_iter().filter(|_| chance.random()).collect();
        }
        after.write(inode(&self.root), into, &mut chance);
    }
}

impl State {
    fn hear(&mut self, call: FileCall, path: &Path) -> io::Result<()> {
        self.calls += 1;
        if self.calls > self.cut_at {
            self.when_cut.take().into_iter().for_each(|tell| tell());
            return Err(Errno::IO.into());
        }
        if call == FileCall::Sync {
            self.sync(path)?;
        }
        Ok(())
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        if !path.is_dir() {
            return self.set(path, Content::File(fs::read(path)?));
        }
        let entries = entries(path)?;
        entries.keys().try_for_each(|name| self.name(&path.join(name)))?;
        self.set(path, Content::Folder(entries))
    }

    /// A file or a folder has its name; what is in it is durable as far as it was before.
    fn name(&mut self, path: &Path) -> io::Result<()> {
        if self.durable.contains_key(&inode(path)) {
            return Ok(());
        }
        let nothing = if path.is_dir() { Content::Folder(Entries::new()) } else { Content::File(Vec::new()) };
        self.set(path, nothing)
    }

    fn set(&mut self, path: &Path, content: Content) -> io::Result<()> {
        self.durable.insert(inode(path), Durable { content, _held: File::open(path)? });
        Ok(())
    }

    fn add_all(&mut self, path: &Path) {
        self.sync(path).unwrap();
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| self.add_all(&entry.unwrap().path()));
        }
    }
}

fn inode(path: &Path) -> Inode {
    fs::symlink_metadata(path).unwrap().ino()
}

fn entries(dir: &Path) -> io::Result<Entries> {
    fs::read_dir(dir)?.map(|entry| entry.map(|entry| (entry.file_name(), inode(&entry.path())))).collect()
}

/// What is there when the power is back.
struct After<'a> {
    durable: &'a BTreeMap<Inode, Durable>,
    /// The folders as the process saw them last.
    now: BTreeMap<Inode, Entries>,
    /// Where the process saw a file or a folder last.
    places: BTreeMap<Inode, PathBuf>,
    /// Of which the newest name is there, or their absence, though no sync has reached it.
    kept: BTreeSet<Inode>,
}

impl After<'_> {
    fn look(&mut self, path: &Path) {
        let number = inode(path);
        self.places.insert(number, path.to_owned());
        if path.is_dir() {
            let entries = entries(path).unwrap();
            entries.keys().for_each(|name| self.look(&path.join(name)));
            self.now.insert(number, entries);
        }
    }

    fn write(&self, number: Inode, to: &Path, chance: &mut Option<ChaCha8Rng>) {
        let durable = self.durable.get(&number).map(|durable| &durable.content);
        let is_folder = self.now.contains_key(&number) || matches!(durable, Some(Content::Folder(_)));
        if !is_folder {
            let durable = match durable {
                Some(Content::File(bytes)) => bytes.clone(),
                Some(Content::Folder(_)) | None => Vec::new(),
            };
            let now = self.places.get(&number).map_or_else(|| durable.clone(), |path| fs::read(path).unwrap());
            fs::write(to, bytes(durable, now, chance)).unwrap();
            return;
        }
        fs::create_dir(to).unwrap();
        for (name, number) in self.entries(number) {
            self.write(number, &to.join(name), chance);
        }
    }

    fn entries(&self, folder: Inode) -> Entries {
        let durable = match self.durable.get(&folder).map(|durable| &durable.content) {
            Some(Content::Folder(entries)) => entries.clone(),
            Some(Content::File(_)) | None => Entries::new(),
        };
        let now = self.now.get(&folder).cloned().unwrap_or_else(Entries::new);
        let names: BTreeSet<&OsString> = durable.keys().chain(now.keys()).collect();
        let is_kept = |number: &Inode| self.kept.contains(number);
        let left = names.into_iter().filter_map(|name| {
            let number = match (durable.get(name), now.get(name)) {
                (Some(before), Some(after)) if before == after || !is_kept(after) => before,
                (_, Some(after)) if is_kept(after) => after,
                (Some(before), None) if !is_kept(before) => before,
                _ => return None,
            };
            Some((name.clone(), *number))
        });
        left.collect()
    }
}

/// The bytes of a file: those that were synced, and by chance all or a beginning of those that were written.
fn bytes(durable: Vec<u8>, now: Vec<u8>, chance: &mut Option<ChaCha8Rng>) -> Vec<u8> {
    let Some(chance) = chance.as_mut().filter(|_| durable != now) else { return durable };
    match chance.random_range(0..3) {
        0 => durable,
        1 => now,
        _ => now[..chance.random_range(0..=now.len())].to_vec(),
    }
}
