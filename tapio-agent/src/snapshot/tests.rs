use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;

const BOOT: [u8; 16] = [7; 16];
const HOUR_NS: u64 = 3_600_000_000_000;

fn snapshot() -> Snapshot {
    of(&[("network/PATHS", &[1, 2, 3]), ("node/NODE", &[])])
}

fn of(parts: &[(&str, &[u8])]) -> Snapshot {
    let parts = parts.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
    Snapshot { seed: 42, parts }
}

/// Writes a snapshot in pieces of two bytes.
fn put<W: io::Write>(snapshot: &Snapshot, to: &mut Writer<W>) {
    for (name, bytes) in &snapshot.parts {
        let (observer, part) = name.split_once('/').unwrap();
        to.put(observer, part, &[]).unwrap();
        bytes.chunks(2).for_each(|piece| to.put(observer, part, piece).unwrap());
    }
}

fn encoded(snapshot: &Snapshot) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), snapshot.seed, &BOOT, HOUR_NS).unwrap();
    put(snapshot, &mut writer);
    writer.end().unwrap().0
}

fn save(store: &Store, snapshot: &Snapshot, boot_ns: u64) -> anyhow::Result<u64> {
    store.save(snapshot.seed, boot_ns, |to| {
        put(snapshot, to);
        Ok(())
    })
}

#[test]
fn what_was_saved_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("new/state");
    let store = Store::of(&state_dir, Path::new("/proc")).unwrap();
    assert_eq!(store.load(HOUR_NS), Err(Unusable::Absent));
    save(&store, &Snapshot::new().unwrap(), 1).unwrap();
    let failed = store.save(1, 1, |_| anyhow::bail!("half of it"));
    assert_eq!(failed.unwrap_err().to_string(), "half of it");
    save(&store, &snapshot(), HOUR_NS).unwrap();
    assert_eq!(store.load(3 * HOUR_NS), Ok((snapshot(), Duration::from_secs(7200))));
    assert_eq!(fs::read_dir(&state_dir).unwrap().count(), 1);
    assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&state_dir).unwrap().permissions().mode() & 0o7777, 0o700);
    // Whoever may write to the directory can neither make the agent read another's file nor have one
    // overwritten.
    let other = directory.path().join("other");
    fs::rename(store.path(), &other).unwrap();
    std::os::unix::fs::symlink(&other, store.path()).unwrap();
    assert!(matches!(store.load(HOUR_NS), Err(Unusable::Damaged(why)) if why.contains("symbolic link")));
    let before = fs::read(&other).unwrap();
    std::os::unix::fs::symlink(&other, state_dir.join("learned.new")).unwrap();
    save(&store, &Snapshot::new().unwrap(), HOUR_NS).unwrap();
    assert!(store.load(HOUR_NS).is_ok() && fs::read(&other).unwrap() == before);
    fs::remove_file(store.path()).unwrap();
    fs::create_dir(store.path()).unwrap();
    assert!(matches!(store.load(HOUR_NS), Err(Unusable::Damaged(_))));
    assert!(save(&store, &snapshot(), HOUR_NS).is_err());
}

#[test]
fn a_seed_is_not_to_be_guessed() {
    let seeds: Vec<u64> = (0..8)
        .map(|_| {
            // Other randomness in the agent may begin with the same seed each time.
            fastrand::seed(7);
            Snapshot::new().unwrap().seed
        })
        .collect();
    for (nth, seed) in seeds.iter().enumerate() {
        let is_alike = |other: &u64| other >> 32 == seed >> 32 || *other as u32 == *seed as u32;
        assert!(!seeds[..nth].iter().any(is_alike), "{seeds:x?}");
    }
}

#[test]
fn notes_go_from_one_agent_to_the_next() {
    let first = Contributions::of(&snapshot(), &["node"], Duration::ZERO);
    assert_eq!(first.before("node"), None);
    first.contribute("node", vec![1]);
    first.contribute("expected", vec![2]);
    let kept = |contributions: &Contributions| {
        let mut writer = Writer::begin(Vec::new(), 42, &BOOT, HOUR_NS).unwrap();
        contributions.write(&mut writer).unwrap();
        Snapshot::decode(&writer.end().unwrap().0, &BOOT, HOUR_NS).unwrap().0
    };

    let second = Contributions::of(&kept(&first), &["node", "expected"], Duration::from_secs(3600));
    assert_eq!((second.before("node"), second.before("expected")), (Some(vec![1]), Some(vec![2])));
    let never = Contributions::of(&kept(&first), &["node"], Duration::MAX);
    assert_eq!((never.due_at("node"), never.is_due("node")), (None, false));
    assert!(first.is_due("node") && !second.is_due("node"));
    second.contribute("node", vec![3]);
    assert_eq!(second.before("node"), None, "it is of this one now");
    // A contributor that has not stored anything yet keeps its earlier state.
    assert_eq!(kept(&second).part("expected", CONTRIBUTIONS), Some(&[2][..]));
}

#[test]
fn what_is_of_no_use_is_not_used() {
    let bytes = encoded(&snapshot());
    let refused = |bytes: &[u8], boot, now| Snapshot::decode(bytes, boot, now).unwrap_err();
    assert_eq!(refused(&bytes, &[8; 16], HOUR_NS), Unusable::Boot);
    let age = Duration::from_secs(25 * 3600);
    assert_eq!(refused(&bytes, &BOOT, 26 * HOUR_NS), Unusable::Age(age));
    assert!(matches!(refused(&bytes, &BOOT, HOUR_NS - 1), Unusable::Damaged(_)), "of the future");
    let mut other = bytes.clone();
    other.truncate(bytes.len() - 4);
    other[8] += 1;
    other.extend_from_slice(&crc32fast::hash(&other).to_le_bytes());
    assert_eq!(refused(&other, &BOOT, HOUR_NS), Unusable::Layout);
}

proptest! {
    #[test]
    fn damage_is_noticed(at in 0..100_usize, bit in 0..8, cut in any::<bool>()) {
        let mut bytes = encoded(&snapshot());
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1_u8 << bit };
        prop_assert!(matches!(Snapshot::decode(&bytes, &BOOT, HOUR_NS), Err(Unusable::Damaged(_))));
    }

    #[test]
    fn whatever_it_holds_is_no_fault(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Snapshot::decode(&bytes, &BOOT, HOUR_NS);
        // Cuts into the checksum, too.
        let mut whole = encoded(&snapshot())[..44].to_vec();
        whole.append(&mut bytes);
        whole.extend_from_slice(&crc32fast::hash(&whole).to_le_bytes());
        let _ = Snapshot::decode(&whole, &BOOT, HOUR_NS);
    }
}
