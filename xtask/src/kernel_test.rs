//! `cargo xtask kernel-test`: runs the kernel tests on the kernels that users run, each in a virtual machine.
//!
//! A guest has a distribution's kernel and an initramfs with only the files that the tests need. It has no
//! disk and no network, and prints all results on its console. It is emulated, so it runs everywhere.

mod expected;
mod guest;
mod image;
mod kernel;
mod packages;
mod report;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use self::{
    expected::Skips,
    guest::Guest,
    image::Programs,
    kernel::Kernel,
    report::{Row, report},
};
use crate::{arch::Arch, budget, machine, setup, tally::Tally};

impl Arch {
    /// The default kernels: those of the supported Debian releases and the newest available; a single one for
    /// arm64, because the programs' code is the same.
    fn default_kernels(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["5.10", "6.1", "6.12", kernel::NEWEST],
            Self::Arm64 => &["6.12"],
        }
    }
}

/// A way to boot a kernel.
struct Boot {
    name: &'static str,
    /// Parameters for the kernel command line.
    parameters: &'static str,
    /// Counts instructions (QEMU's icount): each takes two nanoseconds of the guest's time, and only one CPU
    /// runs at a time. Of the emulated CPUs, only those of arm64 have counters.
    counted: bool,
    /// Parts of the names of tests that may have another outcome than with the plain boot; empty for all
    /// tests.
    tests: &'static [&'static str],
}

impl Boot {
    fn fits(&self, arch: Arch) -> bool {
        !self.counted || arch == Arch::Arm64
    }
}

const BOOTS: &[Boot] = &[
    Boot { name: "plain", parameters: "", counted: false, tests: &[] },
    Boot {
        name: "lockdown-integrity",
        parameters: "lockdown=integrity",
        counted: false,
        tests: &["lockdown", "owner::"],
    },
    Boot {
        name: "lockdown-confidentiality",
        parameters: "lockdown=confidentiality",
        counted: false,
        tests: &["container::", "lockdown", "owner::"],
    },
    Boot {
        name: "cgroup-v1",
        parameters: "tapio.cgroups=v1",
        counted: false,
        tests: &["container", "node::pressure::", "node::services::", "owner::"],
    },
    Boot {
        name: "cgroup-hybrid",
        parameters: "tapio.cgroups=hybrid",
        counted: false,
        tests: &["container", "node::", "owner::"],
    },
    Boot { name: "pmu", parameters: "", counted: true, tests: &["cycles::"] },
];

/// For `--quick`: the oldest kernel and the newest. The tests check that programs load, that fields are at
/// the right offsets, privileges, counts, and one fault per observer; a new observer adds one.
const QUICK_KERNELS: &[&str] = &["5.10", kernel::NEWEST];
const QUICK_TESTS: &[&str] = &[
    "agent::counts::",
    "agent::hooks::",
    "agent::rights::",
    "container::a_fault_of_a_child_is_a_crash_with_its_address",
    "container::oom::a_child_that_takes_too_much_memory_is_an_oom_kill",
    "dns::failure::an_unconnected_socket_is_seen",
    "health::a_container_that_writes_to_a_full_file_system_is_reported_once",
    "link::gateways_that_do_not_answer_are_reported_once_and_other_neighbours_are_not",
    "link::queues_that_are_made_and_removed_are_nothing",
    "network::connect::a_refused_connect_is_reported_once_with_its_process",
    "network::reset::a_reset_in_mid_transfer_is_reported_at_the_client",
    "node::pressure::memory_near_its_limit_is_reported_and_a_cache_is_not",
    "storage::a_write_that_the_disk_refuses_is_reported_once",
];

/// The parsed arguments.
#[derive(Default)]
struct Options {
    kernels: Vec<String>,
    arch: Option<Arch>,
    boot: Option<String>,
    test: Option<String>,
    bless: bool,
    quick: bool,
    update: bool,
}

/// `kernel-test [VERSION...] [--arch=amd64|arm64] [--boot=NAME] [--test=FILTER,...] [--quick] [--update]
/// [--bless]`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    test_all(&Options::parse(arguments)?).map(drop)
}

/// The same for `ci`.
pub(crate) fn run(arguments: &[&str]) -> Result<Tally> {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    test_all(&Options::parse(&arguments)?)
}

fn test_all(options: &Options) -> Result<Tally> {
    setup::task(&[])?;
    let mut guests = Vec::new();
    for arch in Arch::ALL {
        let Some(kernels) = options.kernels(arch) else { continue };
        setup::emulator(arch)?;
        let programs = Arc::new(Programs::build(arch)?);
        for query in kernels {
            let kernel = Arc::new(Kernel::get(query, arch, options.update)?);
            let boots = BOOTS.iter().filter(|boot| options.wants(boot) && boot.fits(arch));
            guests.extend(boots.map(|boot| (kernel.clone(), boot, programs.clone())));
        }
    }
    let tested =
        side_by_side(&guests, |(kernel, boot, programs), show| test(kernel, boot, programs, options, show));
    // What the others found is shown, also where a guest ended early.
    let (mut rows, mut ended) = (Vec::new(), Vec::new());
    for one in tested {
        match one {
            Ok(row) => rows.push(row),
            Err(error) => ended.push(format!("{error:#}")),
        }
    }
    let tally = report(&rows);
    if !ended.is_empty() {
        bail!("{}", ended.join("\n"));
    }
    let tally = tally?;
    for row in rows.iter().filter(|_| options.quick) {
        let times = row.tests.times.iter().map(|(module, took)| (module.as_str(), *took));
        budget::GUEST.check(times).with_context(|| row.release.clone())?;
    }
    Ok(tally)
}

/// Runs as many guests at a time as there are CPUs, since one keeps less than one busy. The output of a single one
/// appears at once, else that of each at its end.
fn side_by_side<G: Sync>(
    guests: &[G],
    test: impl Fn(&G, &dyn Fn(&str)) -> Result<Row> + Sync,
) -> Vec<Result<Row>> {
    if let [guest] = guests {
        return vec![test(guest, &|line| println!("{line}"))];
    }
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(guest) = guests.get(at) else { break };
                    let said = RefCell::new(String::new());
                    let row = test(guest, &|line| said.borrow_mut().extend([line, "\n"]));
                    print!("{}", said.borrow());
                    rows.lock().unwrap_or_else(PoisonError::into_inner).insert(at, row);
                }
            });
        }
    });
    rows.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Tests one kernel, booted in one way.
fn test(
    kernel: &Kernel,
    boot: &Boot,
    programs: &Programs,
    options: &Options,
    show: &dyn Fn(&str),
) -> Result<Row> {
    let name = format!("{} {} {}", kernel.release, kernel.arch.name(), boot.name);
    eprintln!("kernel-test: booting {name}");
    show(&format!("\n== {name}"));
    let start = Instant::now();
    let filters: Vec<&str> = match &options.test {
        Some(filters) => filters.split(',').collect(),
        None if options.quick => QUICK_TESTS.to_vec(),
        None => boot.tests.to_vec(),
    };
    let said = Guest::new(kernel, boot, programs, show).run(&filters).context(name)?;
    let mut row = Row::new(kernel, boot.name, said, start);
    expected::doctor(&mut row, options.bless)?;
    Skips::read()?.judge(&mut row, options.test.is_none() && !options.quick);
    Ok(row)
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.split_once('=') {
                Some(("--arch", name)) => options.arch = Some(Arch::named(name)?),
                Some(("--boot", name)) => options.boot = Some(boot_named(name)?),
                Some(("--test", filter)) => options.test = Some(filter.to_owned()),
                None if argument == "--bless" => options.bless = true,
                None if argument == "--quick" => options.quick = true,
                None if argument == "--update" => options.update = true,
                None if argument == kernel::NEWEST || argument.starts_with(|c: char| c.is_ascii_digit()) => {
                    options.kernels.push(argument.clone());
                }
                _ => bail!("kernel-test does not know `{argument}`; see `cargo xtask --help`"),
            }
        }
        Ok(options)
    }

    /// The kernels to test for an architecture. Versions without an architecture are amd64's.
    fn kernels(&self, arch: Arch) -> Option<Vec<&str>> {
        let named = !self.kernels.is_empty();
        match self.arch {
            Some(wanted) if wanted != arch => None,
            None if arch != Arch::Amd64 && (named || self.quick) => None,
            _ if named => Some(self.kernels.iter().map(String::as_str).collect()),
            _ if self.quick => Some(QUICK_KERNELS.to_vec()),
            _ => Some(arch.default_kernels().to_vec()),
        }
    }

    fn wants(&self, boot: &Boot) -> bool {
        match &self.boot {
            Some(name) => name == boot.name,
            None => !self.quick || boot.name == "plain",
        }
    }
}

fn boot_named(name: &str) -> Result<String> {
    if BOOTS.iter().any(|boot| boot.name == name) {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = BOOTS.iter().map(|boot| boot.name).collect();
    bail!("there is no boot `{name}`; there are {}", names.join(", "))
}

/// A directory for downloads and files made from them.
fn cache() -> Result<std::path::PathBuf> {
    machine::tool_root("kernel-test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn without_arguments_all_kernels_are_tested() -> Result<()> {
        let options = parse(&[])?;
        assert_eq!(options.kernels(Arch::Amd64), Some(vec!["5.10", "6.1", "6.12", "newest"]));
        assert_eq!(options.kernels(Arch::Arm64), Some(vec!["6.12"]));
        assert!(BOOTS.iter().all(|boot| options.wants(boot)));
        Ok(())
    }

    #[test]
    fn one_kernel_can_be_named() -> Result<()> {
        let options = parse(&["6.1", "--boot=plain"])?;
        assert_eq!(options.kernels(Arch::Amd64), Some(vec!["6.1"]));
        assert_eq!(options.kernels(Arch::Arm64), None);
        assert_eq!(BOOTS.iter().filter(|boot| options.wants(boot) && boot.fits(Arch::Amd64)).count(), 1);
        let options = parse(&["6.1", "--arch=arm64"])?;
        assert_eq!(options.kernels(Arch::Amd64), None);
        assert_eq!(options.kernels(Arch::Arm64), Some(vec!["6.1"]));
        Ok(())
    }

    #[test]
    fn a_quick_run_is_of_two_kernels() -> Result<()> {
        let options = parse(&["--quick"])?;
        assert_eq!(options.kernels(Arch::Amd64), Some(vec!["5.10", "newest"]));
        assert_eq!(options.kernels(Arch::Arm64), None);
        assert_eq!(BOOTS.iter().filter(|boot| options.wants(boot) && boot.fits(Arch::Amd64)).count(), 1);
        Ok(())
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for wrong in ["--arch=mips", "--boot=fast", "--bles", "latest"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
