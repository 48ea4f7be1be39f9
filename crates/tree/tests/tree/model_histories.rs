//! The rules of one-bit counts against their executable model, step by step, node by node.
//!
//! `model_histories.py` runs seeded histories of the model that lies beside the repository, and prints what it did and
//! what it then holds. The same history is replayed on real trees by the product's rules. A key of four digits becomes
//! the first four nibbles of a key, so the tries have one shape, and nodes have names that both sides make from their
//! structure. Marks with their orders, journal entries, the nodes present, the cutoff and the count of swept nodes must
//! agree after each step, but for what the model does otherwise on purpose; both differences are spelled out below.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use state_tree::{Change, Changes, Counted, Delta, FieldsBase, Key, NodeHash, NodeView, ObjectState, PLACEHOLDER, Put};

use crate::{
    counted_chain::{CountedChain, Without},
    model::{Entry, Tree, object},
    store::Store,
};

/// Names the folder of the shared data; the model lies above it.
const FOLDER: &str = "STATE_PRUNER_SHARED";

/// The folder of the model and the way to run it; nothing, and a loud line, if either is not there.
fn folder_of_the_model(test: &str) -> Option<PathBuf> {
    let given = std::env::var_os(FOLDER);
    let data = match &given {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
    };
    let folder = data.join("..");
    let python = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    let why = match (folder.join("incremental_model.py").exists(), python) {
        (true, Ok(status)) if status.success() => return Some(folder),
        (false, _) => format!("incremental_model.py is not in {}", folder.display()),
        (true, _) => "python3 does not run".to_owned(),
    };
    assert!(given.is_none(), "{FOLDER} is set, and {why}");
    say(&format!("SKIPPED {test}: {why}"));
    None
}

/// Writes past the capture of the test runner, which hides what passing tests print.
fn say(text: &str) {
    let mut uncaptured = std::io::stderr().lock();
    writeln!(uncaptured, "{text}").unwrap();
}

/// A history while it is replayed.
struct Replay {
    /// The chain that is kept in step with the model.
    chain: CountedChain,
    /// The chain that obeys the product alone, and goes its own way.
    own: CountedChain,
    names: Names,
    seen: Seen,
}

/// How much was compared.
#[derive(Debug, Default)]
struct Seen {
    histories: usize,
    steps: usize,
    commits: usize,
    swept: usize,
    /// The same, by the chain that obeys the product alone.
    swept_alone: usize,
    /// Nodes that were *many*, each history at its most.
    marks: usize,
    /// Marks that only the model makes, on leaves that moved.
    moved_leaves: usize,
    /// Marks that only the model makes more recent, on leaves that moved.
    moved_marks: usize,
    /// Commits for which the product takes less for a move than the model.
    strict_moves: usize,
}

impl Replay {
    fn new(window: usize) -> Self {
        // Difference 1: the model takes every pair of a drop and an adoption for a move, see `strict_moves_only_keep`.
        let chain = CountedChain::new(window, Without::DropsBelowCopies).tracing_all();
        let own = CountedChain::new(window, Without::Nothing).tracing_all();
        Self { chain, own, names: Names::default(), seen: Seen::default() }
    }

    fn step(&mut self, line: &Value) {
        let holds = &line["holds"];
        for chain in [&mut self.chain, &mut self.own] {
            chain.pins = list(&line["pins"]).iter().map(number).collect();
            match line["op"].as_str().unwrap() {
                "commit" => {}
                "sweep" => chain.incremental_sweep(),
                "cycle" => chain.major_cycle(),
                "rollback" => chain.rollback(number(&line["order"])),
                other => panic!("{other} is no step"),
            }
        }
        if line["op"] == "commit" {
            self.commit(line, holds);
        }
        self.compare(holds);
        assert_eq!((self.own.lost(), self.own.broken()), (None, None));
        self.seen.steps += 1;
    }

    fn commit(&mut self, line: &Value, holds: &Value) {
        let parent = self.chain.states[self.chain.head()].1.clone();
        let changes = changes(&parent, line);
        let delta = self.chain.delta(&changes);
        let counted = self.chain.counted(&delta, Without::DropsBelowCopies);
        self.seen.strict_moves +=
            strict_moves_only_keep(&delta, &self.chain.counted(&delta, Without::Nothing), &counted);
        self.chain.write(&changes, &delta, counted);
        self.own.commit(&changes);
        self.names.learn(&delta);
        self.take_marks_of_moved_leaves(&changes, &parent, holds);
        self.seen.commits += 1;
    }

    /// Difference 2: a leaf that is only pulled up or pushed down is in no list of a delta, while the model counts a
    /// place lost and a place gained. Where the loss is shared (the leaf is *many*, or came with a moved or cloned tree)
    /// the gain is left: the leaf is marked, or marked as of this order, and with it the fields that its place pushes
    /// down. The leaf has as many places as before, so nobody needs the mark. It is taken over to stay in step.
    fn take_marks_of_moved_leaves(&mut self, changes: &Changes, parent: &Tree, holds: &Value) {
        let order = self.chain.head();
        for hash in moved_leaves(parent, &self.chain.states[order].1, changes) {
            let theirs = holds["many"].get(self.names.of(&hash)).map(number);
            if theirs != Some(order) {
                continue;
            }
            match self.chain.many.insert(hash, order) {
                None => self.seen.moved_leaves += 1,
                Some(before) => self.seen.moved_marks += usize::from(before < order),
            }
        }
    }

    /// Everything both sides hold is the same.
    fn compare(&mut self, holds: &Value) {
        let Self { chain, names, seen, .. } = self;
        assert_eq!(Value::from(names.of(&chain.states[chain.head()].0.hash())), holds["root"]);
        let many: BTreeMap<&str, usize> = chain.many.iter().map(|(hash, order)| (names.of(hash), *order)).collect();
        assert_eq!(serde_json::to_value(&many).unwrap(), holds["many"], "many");
        assert_eq!(many.len(), chain.many.len(), "two nodes have one name");
        let entries = chain.entries();
        let entries = entries.iter().filter(|(_, entry)| !entry.stale.is_empty() || !entry.dropped.is_empty());
        let journal: BTreeMap<String, [Vec<&str>; 2]> = entries
            .map(|(order, entry)| (order.to_string(), [names.sorted(&entry.stale), names.sorted(&entry.dropped)]))
            .collect();
        assert_eq!(serde_json::to_value(&journal).unwrap(), holds["journal"], "journal");
        let present = names.sorted(chain.store.0.keys());
        assert_eq!(serde_json::to_value(&present).unwrap(), holds["present"], "present");
        assert_eq!((chain.swept, chain.cutoff), (number(&holds["swept"]), number(&holds["cutoff"])), "swept, cutoff");
        assert_eq!(chain.lost(), None);
        seen.swept = chain.swept;
        seen.swept_alone = self.own.swept;
        seen.marks = many.len().max(seen.marks);
    }
}

/// Difference 1: a drop at a place that something else may still reach is no half of a move for us. In a state two
/// trees deep, as the model's, a leaf that embeds a root has one place, so the model may ignore that; the adopted root
/// is then marked *many* by us, which keeps more. Says whether this commit is such a one.
fn strict_moves_only_keep(delta: &Delta, ours: &Counted, models: &Counted) -> usize {
    if ours == models {
        return 0;
    }
    let strict: BTreeSet<NodeHash> = ours.many.difference(&models.many).copied().collect();
    assert!(models.many.is_subset(&ours.many) && strict.iter().all(|root| delta.adopted.contains(root)), "{strict:?}");
    let is_subset = |ours: &[NodeHash], models: &[NodeHash]| ours.iter().all(|hash| models.contains(hash));
    assert!(is_subset(&ours.expiring.stale, &models.expiring.stale));
    assert!(is_subset(&ours.expiring.dropped, &models.expiring.dropped));
    1
}

/// The names that both sides give to nodes.
struct Names(BTreeMap<NodeHash, String>);

impl Default for Names {
    fn default() -> Self {
        Self([(PLACEHOLDER, "-".to_owned())].into())
    }
}

impl Names {
    fn of(&self, hash: &NodeHash) -> &str {
        &self.0[hash]
    }

    fn sorted<'h>(&self, hashes: impl IntoIterator<Item = &'h NodeHash>) -> Vec<&str> {
        let mut names: Vec<&str> = hashes.into_iter().map(|hash| self.of(hash)).collect();
        names.sort_unstable();
        names
    }

    fn learn(&mut self, delta: &Delta) {
        delta.created.keys().for_each(|hash| self.name(hash, delta));
    }

    fn name(&mut self, hash: &NodeHash, delta: &Delta) {
        if self.0.contains_key(hash) {
            return;
        }
        let text = match NodeView::decode(&delta.created[hash].bytes).unwrap() {
            NodeView::Leaf(leaf) => {
                let object = ObjectState::decode(leaf.value).unwrap();
                let fields = object.fields().hash();
                self.name(&fields, delta);
                let value = u64::from_le_bytes(object.value.as_slice().try_into().unwrap());
                format!("leaf {} {value} {}", digits(&leaf.key), self.of(&fields))
            }
            NodeView::Internal(node) => node.children().fold("internal".to_owned(), |text, (nibble, child)| {
                self.name(&child.hash, delta);
                format!("{text} {nibble}:{}", self.of(&child.hash))
            }),
        };
        self.0.insert(*hash, hex::encode(&Sha256::digest(text)[..6]));
    }
}

fn digits(key: &Key) -> String {
    (0..4).map(|depth| char::from(b'0' + key.nibble(depth).unwrap())).collect()
}

fn key(digits: &str) -> Key {
    let mut bytes = [0; 32];
    for (at, digit) in digits.bytes().enumerate() {
        bytes[at / 2] |= (digit - b'0') << (4 * (1 - at % 2));
    }
    Key::new(bytes)
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

/// The fields of an object as the model prints them; none is null.
fn fields(value: &Value) -> Tree {
    let entry = |value: &Value| Entry { object: object(value.as_u64().unwrap()), fields: Tree::default() };
    Tree(value.as_object().into_iter().flatten().map(|(digits, value)| (key(digits), entry(value))).collect())
}

/// The changes that lead from the parent state to the one that the model commits.
fn changes(parent: &Tree, line: &Value) -> Changes {
    let objects = line["objects"].as_object().unwrap();
    let after: BTreeMap<Key, Entry> = objects
        .iter()
        .map(|(digits, own)| (key(digits), Entry { object: object(own[0].as_u64().unwrap()), fields: fields(&own[1]) }))
        .collect();
    let removed = parent.0.keys().filter(|key| !after.contains_key(key)).map(|key| (*key, Change::Remove));
    let changed = after.iter().filter(|(key, entry)| parent.0.get(key) != Some(entry)).map(|(key, entry)| {
        let source = line["adopt"].get(digits(key)).map(|source| self::key(source.as_str().unwrap()));
        (*key, Change::Put(put(parent, (key, entry), source)))
    });
    Changes(removed.chain(changed).collect())
}

/// One object with new content; fields that end are dropped as a tree, as the model does.
fn put(parent: &Tree, (key, entry): (&Key, &Entry), source: Option<Key>) -> Put {
    let empty = Tree::default();
    let of = |key: &Key| parent.0.get(key).map_or(&empty, |entry| &entry.fields);
    let (base, from) = match source {
        Some(source) => (FieldsBase::Adopt(vec![source]), of(&source)),
        None if entry.fields.0.is_empty() => (FieldsBase::Empty, &empty),
        None => (FieldsBase::Keep, of(key)),
    };
    let gone = from.0.keys().filter(|key| !entry.fields.0.contains_key(key)).map(|key| (*key, Change::Remove));
    let new = entry.fields.0.iter().filter(|(key, field)| from.0.get(key) != Some(field));
    let new = new.map(|(key, field)| {
        let object = Some(field.object.clone());
        (*key, Change::Put(Put { object, base: FieldsBase::Keep, fields: Changes::default() }))
    });
    Put { object: Some(entry.object.clone()), base, fields: Changes(gone.chain(new).collect()) }
}

/// Leaves that are as they were but stand higher or lower in their tree, and the fields roots they embed.
fn moved_leaves(parent: &Tree, after: &Tree, changes: &Changes) -> BTreeSet<NodeHash> {
    let mut moved = moved_in(parent, after);
    for (key, change) in &changes.0 {
        let Change::Put(put) = change else { continue };
        let from = match &put.base {
            FieldsBase::Adopt(path) => parent.at(path),
            FieldsBase::Keep | FieldsBase::Empty => parent.0.get(key),
        };
        if let Some(from) = from {
            moved.extend(moved_in(&from.fields, &after.0[key].fields));
        }
    }
    moved
}

fn moved_in(before: &Tree, after: &Tree) -> BTreeSet<NodeHash> {
    let same = after.0.iter().filter(|(key, entry)| before.0.get(key) == Some(entry));
    let moved = same.filter(|(key, _)| depth(key, before) != depth(key, after));
    let hashes = |(key, entry): (&Key, &Entry)| {
        let fields = entry.fields.build(&mut Store::default()).node();
        [Some(entry.build(*key, &mut Store::default()).hash), fields]
    };
    moved.flat_map(hashes).flatten().collect()
}

/// How deep the leaf of a key stands: as high as no other key leads.
fn depth(key: &Key, tree: &Tree) -> usize {
    let others = tree.0.keys().filter(|other| *other != key);
    others.map(|other| 1 + key.common_bits(other) / 4).max().unwrap_or(0)
}

/// Replays what the script prints.
fn replay(folder: &Path, histories: u64, steps: u64) -> Seen {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tree/model_histories.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(folder).args(["0", &histories.to_string(), &steps.to_string()]);
    let mut python = python.stdout(Stdio::piped()).spawn().unwrap();
    let mut total = Seen::default();
    let mut current: Option<Replay> = None;
    for line in BufReader::new(python.stdout.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["op"] == "begin" {
            total.add(current.replace(Replay::new(number(&line["window"]))));
            continue;
        }
        let replay = current.as_mut().unwrap();
        let at = (total.histories, replay.seen.steps);
        let step = std::panic::AssertUnwindSafe(|| replay.step(&line));
        if let Err(why) = std::panic::catch_unwind(step) {
            say(&format!("history and step {at:?}: {line}"));
            std::panic::resume_unwind(why);
        }
    }
    total.add(current);
    assert!(python.wait().unwrap().success(), "the model failed");
    total
}

impl Seen {
    fn add(&mut self, replay: Option<Replay>) {
        let Some(Replay { seen, .. }) = replay else { return };
        self.histories += 1;
        self.steps += seen.steps;
        self.commits += seen.commits;
        self.swept += seen.swept;
        self.swept_alone += seen.swept_alone;
        self.marks += seen.marks;
        self.moved_leaves += seen.moved_leaves;
        self.moved_marks += seen.moved_marks;
        self.strict_moves += seen.strict_moves;
    }
}

#[test]
fn the_rules_agree_with_their_model_after_every_step() {
    let Some(folder) = folder_of_the_model("the_rules_agree_with_their_model_after_every_step") else { return };
    let histories = crate::one_bit_counts::count(60);
    let seen = replay(&folder, histories, 160);
    println!("{seen:?}");
    assert_eq!(seen.histories as u64, histories);
    assert!(seen.swept > 1000 && seen.marks > 100, "{seen:?}: the histories test nothing");
    assert!((seen.moved_leaves + seen.strict_moves) * 20 < seen.commits, "{seen:?}: the differences are rare");
}
