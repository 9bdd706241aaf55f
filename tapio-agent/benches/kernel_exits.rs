//! Measures the cost of short processes with the container observer and without, at the highest rate this
//! machine can start them, and what is reported for them. That must be nothing: the processes exit with 0 and
//! 1 by turns, and none is a main process.

#[path = "../tests/kernel/support/program.rs"]
mod program;
mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use program::Program;
use support::{
    agent::Agent,
    compare,
    slices::{self, Slices},
};
use tapio_agent::{
    enrich::cgroups::Cgroups,
    kernel::{Kernel, Loaded},
    observer::{Built, container::Container},
};

/// Groups of four slices, in the order off, on, on, off, so that drift of the machine affects both equally.
const QUADS: usize = 75;
/// Processes per slice.
const SLICE: u16 = 1_000;
/// Duration of the run with the whole agent.
const STORM: Duration = Duration::from_secs(10);
/// Command name of the processes.
const NAME: &str = "tapio-forks";

fn main() -> anyhow::Result<()> {
    if env::args().nth(1).as_deref() == Some("slices") {
        return load();
    }
    let group = Group::make()?;
    let program = forks()?;
    let kernel = Kernel::open("/proc".as_ref())?;
    paired(&kernel, &group, &program)?;
    compare::print_paired_all("short_process_all_ratio", &kernel, start(&group, &program)?)?;
    storm(&group, &program)
}

/// A program that starts processes one after the other. Each exits at once.
#[rustfmt::skip]
fn forks() -> anyhow::Result<Program> {
    let [low, high] = SLICE.to_le_bytes();
    let code = if env::consts::ARCH == "x86_64" {
        vec![
            0xbb, low, high, 0, 0, // mov ebx, SLICE
            0xb8, 57, 0, 0, 0, 0x0f, 0x05, // next: fork()
            0x85, 0xc0, 0x74, 32, // jz child
            0xbf, 0xff, 0xff, 0xff, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, //
            0xb8, 61, 0, 0, 0, 0x0f, 0x05, // wait4(-1, 0, 0, 0)
            0xff, 0xcb, 0x75, 0xde, // dec ebx; jnz next
            0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, // exit(0)
            0x89, 0xdf, 0x83, 0xe7, 1, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, // child: exit(ebx & 1)
        ]
    } else {
        let words: [u32; 23] = [
            0x5280_0013 | u32::from(SLICE) << 5, // mov w19, SLICE
            0xd280_0220, 0xd280_0001, 0xd280_0002, 0xd280_0003, 0xd280_0004, //
            0xd280_1b88, 0xd400_0001, // next: clone(SIGCHLD, 0, 0, 0, 0)
            0x3400_0180, // cbz w0, child
            0x9280_0000, 0xd280_0001, 0xd280_0002, 0xd280_0003, //
            0xd280_2088, 0xd400_0001, // wait4(-1, 0, 0, 0)
            0x7100_0673, 0x54ff_fe21, // subs w19, w19, 1; b.ne next
            0xd280_0000, 0xd280_0ba8, 0xd400_0001, // exit(0)
            0x1200_0260, 0xd280_0ba8, 0xd400_0001, // child: exit(w19 & 1)
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    };
    Program::new(NAME, &code).context("cannot write a program")
}

/// CPU per process on one CPU, with the observer attached and without, compared in pairs.
fn paired(kernel: &Kernel, group: &Group, program: &Program) -> anyhow::Result<()> {
    let built = Built::new::<Container>(&Default::default());
    let mut load = start(group, program)?;
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    let mut seen = 0;
    for _ in 0..QUADS {
        let off = load.next()?;
        let loaded = kernel.load(&built.object()?)?;
        support::all_attached([&loaded])?;
        let before = exits(&loaded)?;
        let on = [load.next()?, load.next()?];
        seen += exits(&loaded)? - before;
        drop(loaded);
        ratios.extend([on[0] / off, on[1] / load.next()?]);
        costs.push(off);
    }
    ensure!(seen >= QUADS as u64 * 2 * u64::from(SLICE), "the observer saw {seen} ends only");
    costs.sort_by(f64::total_cmp);
    println!("short_process_us {:.2} us", costs[costs.len() / 2] / 1e3);
    slices::print_ratios("short_process_ratio", &mut ratios);
    Ok(())
}

/// The load, in the cgroup.
fn start(group: &Group, program: &Program) -> anyhow::Result<Slices> {
    let mut load =
        Slices::start(support::on_one_cpu()?.arg("slices").args([group.0.as_path(), program.path()]))?;
    fs::write(group.0.join("cgroup.procs"), load.pid().to_string())?;
    load.next()?;
    Ok(load)
}

/// The number of runs of the program at process exit.
fn exits(loaded: &Loaded) -> anyhow::Result<u64> {
    let at = loaded.hooks.iter().position(|hook| hook.hook.program == "sched_process_exit");
    Ok(loaded.counts.read()?[at.context("no such program")?].seen)
}

/// Runs the whole agent while all CPUs start processes.
fn storm(group: &Group, program: &Program) -> anyhow::Result<()> {
    let mut agent = Agent::start(&["--observer=container", "--output=json"], &[])?;
    let cpu = agent.cpu()?;
    let start = Instant::now();
    let rounds = thread::scope(|scope| {
        let many = thread::available_parallelism().map_or(1, usize::from);
        let loads: Vec<_> = (0..many)
            .map(|_| {
                scope.spawn(|| {
                    let mut rounds = 0_u32;
                    while start.elapsed() < STORM {
                        group.run(program)?;
                        rounds += 1;
                    }
                    anyhow::Ok(rounds)
                })
            })
            .collect();
        loads.into_iter().map(|load| load.join().ok().context("a load failed")?).sum::<anyhow::Result<u32>>()
    })?;
    let took = start.elapsed().as_secs_f64();
    let busy = (agent.cpu()? - cpu).as_secs_f64() / took;
    let reported = agent.end()?;
    println!("short_processes_per_second {:.0} processes", f64::from(rounds) * f64::from(SLICE) / took);
    println!("short_processes_agent_percent {:.3} %", 100.0 * busy);
    println!(
        "short_processes_occurrences {} occurrences",
        reported.lines().filter(|l| l.contains(NAME)).count()
    );
    Ok(())
}

/// A cgroup like a container's, which accounts the CPU time of its processes.
struct Group(PathBuf);

impl Group {
    fn make() -> anyhow::Result<Self> {
        let cgroups = Cgroups::new("/sys/fs/cgroup".as_ref(), "/proc".as_ref());
        let mount = cgroups.mount().context("no cgroup2 hierarchy")?;
        let path = mount.join(format!("docker-{:032x}{:032x}.scope", fastrand::u128(..), fastrand::u128(..)));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Runs a program in the cgroup.
    fn run(&self, program: &Program) -> anyhow::Result<()> {
        let script = "echo $$ > \"$0\" && exec \"$1\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(self.0.join("cgroup.procs")).arg(program.path());
        ensure!(shell.status()?.success(), "the load failed");
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process to exit stays in the cgroup for a moment.
        let deadline = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Runs in the load process, which is in the cgroup: CPU nanoseconds per process, including its parent's work
/// to start it.
fn load() -> anyhow::Result<()> {
    let mut paths = env::args_os().skip(2).map(PathBuf::from);
    let (group, program) = (paths.next().context("no group")?, paths.next().context("no program")?);
    slices::each(|| {
        let before = used_us(&group)?;
        ensure!(Command::new(&program).status()?.success(), "the load failed");
        Ok((used_us(&group)? - before) as f64 * 1e3 / f64::from(SLICE))
    })
}

/// CPU time of all processes that were ever in a cgroup.
fn used_us(group: &Path) -> anyhow::Result<u64> {
    let text = fs::read_to_string(group.join("cpu.stat"))?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(used.context("no usage_usec")?.parse()?)
}
