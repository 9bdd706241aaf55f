//! Cgroup trees that only an attacker or a mistake creates.

use std::ffi::OsStr;

use super::*;

const OTHER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn a_group_a_hundred_levels_deep_is_found_and_one_too_deep_is_no_ones() {
    let tree = Tree::new("");
    let deep = tree.group(&format!("docker/{ID}{}", "/x".repeat(100)));
    let inner = tree.group(&format!("docker/{ID}{}/docker/{OTHER}", "/x".repeat(100)));
    let deepest = tree.group(&"y/".repeat(MAX_DEPTH));
    let too_deep = tree.group(&"y/".repeat(MAX_DEPTH + 1));
    let mut cgroups = tree.cgroups();
    let now = Instant::now();
    assert_eq!(container(cgroups.lookup(deep, now)).as_deref(), Some(ID));
    assert_eq!(container(cgroups.lookup(inner, now)).as_deref(), Some(ID), "the outermost");
    let claims = cgroups.claims(inner);
    assert_eq!(claims.iter().map(|claim| claim.container_id.as_deref()).collect::<Vec<_>>(), [Some(OTHER)]);
    assert_eq!(cgroups.lookup(deepest, now), Lookup::Unowned);
    assert_eq!(cgroups.lookup(too_deep, now), Lookup::Unknown);
}

/// A path longer than the kernel accepts cannot be read, even by root.
#[test]
fn what_cannot_be_read_hides_nothing_else() {
    let tree = Tree::new("");
    let before = tree.group(&format!("a/docker-{ID}.scope"));
    let after = tree.group(&format!("z/docker-{OTHER}.scope"));
    let mut directory = fs::File::open(tree.0.path()).unwrap();
    for _ in 0..30 {
        let name = "m".repeat(200);
        rustix::fs::mkdirat(&directory, &name, rustix::fs::Mode::RWXU).unwrap();
        directory =
            rustix::fs::openat(&directory, &name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
                .unwrap()
                .into();
    }
    let unreadable = directory.metadata().unwrap().ino();
    let mut cgroups = tree.cgroups();
    let now = Instant::now();
    assert_eq!(cgroups.lookup(unreadable, now), Lookup::Unknown);
    assert_eq!(container(cgroups.lookup(before, now)).as_deref(), Some(ID));
    assert_eq!(container(cgroups.lookup(after, now)).as_deref(), Some(OTHER));
}

#[test]
fn names_of_any_bytes_are_borne_and_name_nobody() {
    let tree = Tree::new("");
    let names: &[&[u8]] = &[
        b"two\nlines.service",
        b"\xff\xfe.service",
        b"tab\t.scope",
        b"\x1b[31m.service",
        b"caf\xc3\xa9.service",
        b" .service",
        b".service",
        b"docker-\xff.scope",
        b"pod\n",
        b"x (deleted)",
    ];
    for name in names {
        let odd = tree.0.path().join(OsStr::from_bytes(name));
        fs::create_dir(&odd).unwrap();
        let inner = odd.join(format!("docker-{ID}.scope"));
        fs::create_dir(&inner).unwrap();
        let mut cgroups = tree.cgroups();
        let [odd_id, inner_id] = [&odd, &inner].map(|path| fs::metadata(path).unwrap().ino());
        let now = Instant::now();
        assert_eq!(cgroups.lookup(odd_id, now), Lookup::Unowned, "{name:?}");
        assert_eq!(container(cgroups.lookup(inner_id, now)).as_deref(), Some(ID), "{name:?}");
        fs::remove_dir(&inner).unwrap();
        fs::remove_dir(&odd).unwrap();
    }
}

/// cgroup v1 allows renaming. The renamed cgroup is the same one, and so is its owner.
#[test]
fn a_group_that_is_renamed_stays_whose_it_was() {
    let tree = Tree::new("");
    let id = tree.group(&format!("docker/{ID}"));
    let mut cgroups = tree.cgroups();
    let now = Instant::now();
    cgroups.lookup(id, now);
    let at = |name| tree.0.path().join("docker").join(name);
    fs::rename(at(ID), at(OTHER)).unwrap();
    cgroups.walk(now);
    assert_eq!(container(cgroups.lookup(id, now)).as_deref(), Some(ID));
    let mut others = tree.cgroups();
    assert_eq!(
        container(others.lookup(id, now)).as_deref(),
        Some(OTHER),
        "who looks later knows no other name"
    );
}

#[test]
fn a_hierarchy_that_vanishes_and_comes_again_costs_nothing_that_is_known() {
    let tree = Tree::new("unified");
    let path = format!("unified/docker/{ID}");
    let id = tree.group(&path);
    let mut cgroups = tree.cgroups();
    let start = Instant::now();
    cgroups.lookup(id, start);
    let (here, away) = (tree.0.path().join("unified"), tree.0.path().join("away"));
    fs::rename(&here, &away).unwrap();
    // The cgroup is not recorded as vanished, because nothing could be seen.
    cgroups.walk(start);
    cgroups.walk(start + 2 * REMEMBER);
    assert_eq!(container(cgroups.cached(id)).as_deref(), Some(ID));
    fs::rename(&away, &here).unwrap();
    cgroups.walk(start + 3 * REMEMBER);
    assert_eq!(container(cgroups.cached(id)).as_deref(), Some(ID));
}

/// Cgroups are created and removed while a walk runs.
#[test]
fn groups_that_come_and_go_during_a_walk_are_borne() {
    let tree = Tree::new("");
    let stays = tree.group(&format!("docker/{ID}"));
    let (path, is_over) = (tree.0.path().join("comes"), std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                fs::create_dir_all(path.join("and/goes")).unwrap();
                fs::remove_dir_all(&path).unwrap();
            }
        });
        let mut cgroups = tree.cgroups();
        for _ in 0..500 {
            cgroups.walk(Instant::now());
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(container(cgroups.cached(stays)).as_deref(), Some(ID));
    });
}
