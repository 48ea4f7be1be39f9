use std::collections::BTreeSet;

use state_store::{Disposition, FaultyDisk, Lasting};
use state_tree::NodeHash;

use super::*;
use crate::mark::testing::{Random, hash_of};

const IDENTITY: MarkIdentity = MarkIdentity { cycle: 7, roots: [9; 32] };

fn seal(dir: &Path, hashes: &BTreeSet<NodeHash>) -> SealedMark {
    let scratch = Scratch::open(dir, IDENTITY.cycle).unwrap();
    let mut open = OpenMark::create(&scratch, dir, IDENTITY).unwrap();
    hashes.iter().for_each(|hash| open.push(hash.fingerprint()).unwrap());
    open.seal(&AllRootsWalked::assumed(hashes.len() as u64)).unwrap()
}

/// Uniform hashes, hashes in long runs of neighbours, and hashes at both ends.
fn adversarial(random: &mut Random) -> BTreeSet<NodeHash> {
    let mut hashes: BTreeSet<NodeHash> = (0..random.below(4000)).map(|n| hash_of(n ^ random.next())).collect();
    let base = random.next();
    for near in 0..random.below(300) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&base.wrapping_add(near * (1 + near % 3)).to_be_bytes());
        hashes.insert(NodeHash::new(bytes));
    }
    hashes.extend([[0; 32], [255; 32]].map(NodeHash::new));
    hashes
}

#[test]
fn mark_set_agrees_with_a_plain_set_on_random_and_adversarial_hashes() {
    let mut random = Random::new(21);
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let (inside, probes) = (adversarial(&mut random), adversarial(&mut random));
        let plain: BTreeSet<u64> = inside.iter().map(NodeHash::fingerprint).collect();
        let mark = seal(dir.path(), &inside);
        assert_eq!(mark.live_nodes(), plain.len() as u64);
        let mut probes: Vec<NodeHash> = probes.union(&inside).copied().collect();
        for _ in 0..3 {
            let mut reader = mark.reader();
            for probe in &probes {
                assert_eq!(reader.holds(probe).unwrap(), plain.contains(&probe.fingerprint()), "{probe}");
            }
            assert_eq!(reader.fingerprint(mark.live_nodes()).unwrap(), None);
            mark.was_read().unwrap();
            let factor = random.next() | 1;
            probes.sort_by_key(|hash| hash.fingerprint().wrapping_mul(factor)); // any order is answered
        }
    }
}

#[test]
fn a_mark_file_with_any_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = seal(dir.path(), &(0..20).map(hash_of).collect());
    let (path, digest) = (sealed.path().to_owned(), Some(sealed.live_digest()));
    let verify = || SealedMark::verify(dir.path(), IDENTITY, digest);
    let whole = std::fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(SealedMark::open(dir.path(), IDENTITY), Err(PruneError::BadMark { .. })), "bit {bit}");
        assert!(matches!(verify(), Err(PruneError::BadMark { .. })), "bit {bit}");
    }
    for length in [0, 8, HEADER - 1, HEADER, whole.len() - 8, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(SealedMark::open(dir.path(), IDENTITY).is_err() && verify().is_err(), "cut to {length} bytes");
    }
    std::fs::write(&path, [whole.clone(), vec![0; 8]].concat()).unwrap();
    assert!(SealedMark::open(dir.path(), IDENTITY).is_err() && verify().is_err(), "eight bytes more");
    std::fs::write(&path, whole).unwrap();
    SealedMark::open(dir.path(), IDENTITY).unwrap();
    verify().unwrap();
    let other = SealedMark::verify(dir.path(), IDENTITY, Some([1; 32])).unwrap_err();
    assert!(other.to_string().contains("not the one that its cycle sealed"), "{other}");
}

#[test]
fn a_mark_read_piece_by_piece_is_judged_as_one_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = seal(dir.path(), &(0..20).map(hash_of).collect()).path().to_owned();
    let whole = std::fs::read(path).unwrap();
    let header = Header::decode(&whole).unwrap();
    for piece in [8, 16, 24, 160, 1 << 20] {
        let judged = |mut payload: &[u8]| Payload::read(&mut payload, piece).unwrap().check(&header).map(|_| ());
        assert_eq!(judged(&whole[HEADER..]), Ok(()), "pieces of {piece}");
        for bit in 0..(whole.len() - HEADER) * 8 {
            let mut flipped = whole[HEADER..].to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(judged(&flipped).is_err(), "bit {bit} in pieces of {piece}");
        }
        let mut swapped = whole[HEADER..].to_vec();
        swapped.rotate_left(8); // descends where two pieces meet, too
        let header = Header { payload: Sha256::digest(&swapped).into(), ..Header::decode(&whole).unwrap() };
        let judged = Payload::read(&mut &swapped[..], piece).unwrap().check(&header).map(|_| ());
        assert_eq!(judged, Err("its fingerprints are not ascending"), "pieces of {piece}");
    }
}

/// What no map could tell: the file fails under a compaction, and whoever judges by it keeps and says so (I8).
#[test]
fn a_mark_that_fails_after_it_was_opened_keeps_everything_and_is_told() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("cut to nothing", |path| std::fs::write(path, []).unwrap()),
        ("cut in its last block", |path| {
            let length = std::fs::metadata(path).unwrap().len();
            File::options().write(true).open(path).unwrap().set_len(length - 8).unwrap();
        }),
        ("zeros behind its header", |path| {
            let file = File::options().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(HEADER as u64).and_then(|()| file.set_len(length)).unwrap();
        }),
        ("one bit of its last fingerprint", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
    ];
    let hashes: BTreeSet<NodeHash> = (0..4000).map(hash_of).collect();
    let (first, last) = (*hashes.first().unwrap(), *hashes.last().unwrap());
    let dead = NodeHash::new([255; 32]);
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let mark = seal(dir.path(), &hashes);
        let (mut reader, mut judge) = (mark.reader(), LiveSet::reader(&mark));
        assert!(reader.holds(&first).unwrap() && judge.contains(&first), "{what}");
        assert!(!judge.contains(&hash_of(4001)), "{what}");
        damage(mark.path());
        assert!(matches!(reader.holds(&last), Err(PruneError::BadMark { .. })), "{what}");
        assert!(matches!(reader.fingerprint(3999), Err(PruneError::BadMark { .. })), "{what}");
        mark.was_read().unwrap(); // no compaction asked
        assert!(judge.contains(&dead) && judge.contains(&first) && judge.contains(&hash_of(4001)), "{what}");
        let told = mark.was_read();
        assert!(matches!(told, Err(PruneError::BadMark { .. })), "{what}: {told:?}");
        mark.was_read().unwrap(); // it is told once: who tries again has other readers
        assert!(LiveSet::reader(&mark).contains(&dead) && mark.was_read().is_err(), "{what}");
    }
}

/// The same by the system's own error, which may pass.
#[test]
fn a_mark_whose_disk_fails_a_look_up_keeps_everything_and_is_read_again() {
    let (dir, hashes) = (tempfile::tempdir().unwrap(), (0..4000).map(hash_of).collect());
    let (disk, mark) = (FaultyDisk::under(dir.path()), seal(dir.path(), &hashes));
    let (mut judge, dead) = (LiveSet::reader(&mark), NodeHash::new([255; 32]));
    disk.inject("mark-*.sealed", FileCall::Read, 1, Lasting::Once);
    assert!(judge.contains(hashes.first().unwrap()));
    assert!(judge.contains(&dead), "unknown means keep");
    let told = mark.was_read().unwrap_err();
    assert!(matches!(told, PruneError::File { .. }), "{told}");
    assert_eq!((told.disposition(), disk.met()), (Disposition::Transient, 1));
    assert!(judge.contains(&dead), "this compaction has an output that nobody counts on");
    assert!(!LiveSet::reader(&mark).contains(&dead), "the next one");
    mark.was_read().unwrap();
}

#[test]
fn a_mark_set_from_another_cycle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mark = seal(dir.path(), &(0..20).map(hash_of).collect());
    let other_cycle = MarkIdentity { cycle: 8, ..IDENTITY };
    let other_roots = MarkIdentity { roots: [8; 32], ..IDENTITY };
    assert!(matches!(SealedMark::open(dir.path(), other_roots), Err(PruneError::BadMark { .. })));
    assert!(matches!(SealedMark::open(dir.path(), other_cycle), Err(PruneError::BadMark { .. })), "absent");
    std::fs::copy(mark.path(), disk::sealed_path(dir.path(), 8)).unwrap();
    assert!(matches!(SealedMark::open(dir.path(), other_cycle), Err(PruneError::BadMark { .. })), "renamed");
}

#[test]
fn a_mark_file_keeps_its_golden_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = [0x11; 32];
    bytes[..8].copy_from_slice(&0x0102_0304_0506_0708u64.to_be_bytes());
    let mark = seal(dir.path(), &BTreeSet::from([NodeHash::new(bytes)]));
    let golden = concat!(
        "5350524e4d41524b",                                                 // SPRNMARK
        "0100000000000000",                                                 // version
        "0700000000000000",                                                 // cycle
        "0100000000000000",                                                 // count
        "0909090909090909090909090909090909090909090909090909090909090909", // roots
        "66840dda154e8a113c31dd0ad32f7f3a366a80e8136979d8f5a101d3d29d6f72", // SHA-256 of the fingerprints
        "54f0ac0900000000",                                                 // CRC-32
        "0102030405060708",
    );
    assert_eq!(hex::encode(std::fs::read(mark.path()).unwrap()), golden);
}

#[test]
fn a_mark_takes_at_most_nine_bytes_per_live_node() {
    let dir = tempfile::tempdir().unwrap();
    let mark = seal(dir.path(), &(0..5000).map(hash_of).collect());
    assert!(std::fs::metadata(mark.path()).unwrap().len() <= 9 * mark.live_nodes());
}

#[test]
fn an_unsealed_mark_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::open(dir.path(), 7).unwrap();
    let mut open = OpenMark::create(&scratch, dir.path(), IDENTITY).unwrap();
    open.push(1).unwrap();
    assert!(open.push(0).is_err(), "descending");
    drop(open);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
