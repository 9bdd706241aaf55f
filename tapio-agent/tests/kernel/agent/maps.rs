//! The memory of BPF maps, which counts against a pod's limit from their creation.

use std::{collections::BTreeMap, fs, path::Path};

use tapio_agent::{
    kernel::Kernel,
    observer::{self, NAMES},
};

use crate::support::needs_a_kernel;

/// Limit for the maps of all observers together.
const BOUND_BYTES: u64 = 64 << 20;

/// The maps of this process by id, with their size in bytes from the kernel's fdinfo.
fn maps() -> BTreeMap<u32, u64> {
    let shown = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let texts = shown.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default());
    let field = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    texts.filter_map(|text| Some((field(&text, "map_id:")? as u32, field(&text, "memlock:")?))).collect()
}

#[test]
fn those_of_all_observers_fit() {
    needs_a_kernel!();
    let before = maps();
    let kernel = Kernel::open(Path::new("/proc")).unwrap();
    let built = observer::build(NAMES, &observer::Settings::default());
    let built = built.iter().filter(|built| !built.hooks.is_empty());
    let loaded: Vec<_> = built.map(|built| kernel.load(&built.object().unwrap()).unwrap()).collect();
    let made: u64 = maps().iter().filter(|(id, _)| !before.contains_key(id)).map(|(_, bytes)| bytes).sum();
    println!("maps of {} observers: {} KiB", loaded.len(), made >> 10);
    assert!(made > 1 << 20, "they are counted");
    assert!(made <= BOUND_BYTES, "{made} bytes");
}
