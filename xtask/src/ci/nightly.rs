//! Steps too long for every change: the release artefacts as shipped, every kernel and boot, the long forms
//! of tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::lane::{Lane, Step};
use super::{DEPLOYED, in_cluster, none, servers};
use crate::arch::Arch;
use crate::tally::Tally;
use crate::test::{self, Suites};
use crate::{image, kernel_test, krew, machine, scenarios, setup};

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "set-up",
        lane: Lane::First,
        after: &[],
        budget: 120,
        run: || none(setup::task(&["--ci".into()])),
    },
    Step { name: "servers", lane: Lane::First, after: &[], budget: 600, run: || none(servers()) },
    Step { name: "images", lane: Lane::First, after: &[], budget: 3600, run: || none(images()) },
    Step { name: "krew", lane: Lane::First, after: &[], budget: 900, run: || none(krew::installed()) },
    Step { name: "cluster", lane: Lane::First, after: &[], budget: 1800, run: cluster },
    Step {
        name: "scenarios",
        lane: Lane::First,
        after: &[],
        budget: 16_000,
        run: || none(scenarios::nightly()),
    },
    Step { name: "tests", lane: Lane::First, after: &[], budget: 3600, run: long_tests },
    Step { name: "kernels", lane: Lane::First, after: &[], budget: 14_400, run: || kernel_test::run(&[]) },
];

/// Variables that select the long form of all tests: ten minutes of chaos and of healthy load, fifty kills.
const LONG: &[(&str, &str)] =
    &[("TAPIO_CHAOS_SECONDS", "600"), ("QUIET_SECONDS", "600"), ("KILLS", "50"), ("FUZZ_INPUTS", "10000000")];

/// Deploys the release image: faults, then ten minutes of healthy load.
fn cluster() -> Result<Tally> {
    in_cluster(
        |archive| image::shipped(image::AGENT, archive),
        || {
            let mut all = Tally::default();
            for test in
                ["deployed_it_names_faults", "pods_that_no_node_can_take", "a_healthy_cluster_is_quiet"]
            {
                all.add(&test::run_with(DEPLOYED, Some(test), LONG)?);
            }
            Ok(all)
        },
    )
}

fn long_tests() -> Result<Tally> {
    test::run_with(Suites::All, None, LONG)
}

/// Builds each architecture from two clones of this commit, in directories of different depth, and compares
/// the bytes.
fn images() -> Result<()> {
    let root = machine::target_directory()?.join("nightly");
    let places = [root.join("clone"), root.join("another/clone")];
    for place in &places {
        clone(place)?;
    }
    for (program, arch) in
        ["agent", "server"].iter().flat_map(|program| Arch::ALL.map(|arch| (program, arch)))
    {
        let [first, second] = places.each_ref().map(|place| digest(place, program, arch));
        let (first, second) = (first?, second?);
        ensure!(first == second, "{program}, {} of one commit differ: {first} and {second}", arch.name());
        println!("{program} {} {first}, twice", arch.name());
    }
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))
}

fn clone(place: &Path) -> Result<()> {
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    let mut git = Command::new("git");
    machine::run(git.args(["clone", "--quiet"]).arg(machine::workspace()?).arg(place))
}

/// `NAME:TAG DIGEST BYTES bytes, ARCHIVE`, as printed by `image`.
fn digest(clone: &Path, program: &str, arch: Arch) -> Result<String> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(clone).args(["xtask", "image", program, &format!("--arch={}", arch.name())]);
    cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_TARGET_DIR");
    let said = machine::output(&mut cargo)?;
    said.split(' ').nth(1).map(str::to_owned).with_context(|| format!("no digest in `{said}`"))
}
