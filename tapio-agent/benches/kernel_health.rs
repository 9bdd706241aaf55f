//! Measures the health observer: a run of its program at the end of each system call against an empty one in the same run; the
//! CPU of calls while it is attached, and of calls with slices of time in which it is, compared with without.

mod support;

use std::{
    env,
    fs::File,
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use support::{
    compare::{self, SLICE},
    slices::{self, Slices},
};
use tapio_agent::{
    kernel::Kernel,
    observer::{Attach, Built, Hook, Object, health::Health},
};

const LOAD: &str = "slices";
/// Programs that are always attached: the observer's, and an empty one.
const ALWAYS: [&[Hook]; 2] = [&[always("sys_exit")], &[always("empty_call")]];
/// The share of the time in which it is attached is that of the default settings; attaching it is ten times as frequent.
const WINDOW: Duration = Duration::from_secs(1);
const ATTACHED: Duration = Duration::from_millis(10);
/// Groups of four windows: off, on, on, off.
const QUADS: usize = 20;

const fn always(program: &'static str) -> Hook {
    Hook { program, attach: Attach::BtfTracepoint("sys_exit"), needs: &[], gives: "", or: &[] }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip_while(|argument| argument != LOAD).skip(1);
    if let Some(name) = arguments.next() {
        return load(&name, arguments.next().as_deref() == Some("long"));
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    let health = Built::new::<Health>(&Default::default());
    let in_slices = health.object()?;
    let health = Object { hooks: ALWAYS[0], ..health.object()? };
    let settings = support::settings();
    let empty = Object { hooks: ALWAYS[1], ..support::bench_object(&settings)? };
    for name in ["pids", "files", "failures"] {
        program(&kernel, &health, &empty, name)?;
    }
    for name in ["pids", "files"] {
        let start = || Slices::on_one_cpu(&[LOAD, name]);
        compare::print_paired(&format!("health_{name}_attached_ratio"), &kernel, &health, start()?)?;
        compare::print_paired(&format!("health_{name}_empty_ratio"), &kernel, &empty, start()?)?;
        paired_in_slices(&kernel, &in_slices, name)?;
    }
    Ok(())
}

/// The time of a run.
fn program(kernel: &Kernel, health: &Object<'_>, empty: &Object<'_>, name: &str) -> anyhow::Result<()> {
    let (health, empty) = (kernel.load(health)?, kernel.load(empty)?);
    support::all_attached([&health, &empty])?;
    let least = compare::least(&[&health, &empty], &mut Slices::on_one_cpu(&[LOAD, name])?)?;
    let (ns, empty_ns) = (least[0][0], least[1][0]);
    println!("health_program_{name}_ratio {:.2} x", ns / empty_ns);
    println!("health_program_{name}_net_ns {:.1} ns", ns - empty_ns);
    Ok(())
}

/// Windows with a slice of time in which the program is attached, compared with those without.
fn paired_in_slices(kernel: &Kernel, health: &Object<'_>, name: &str) -> anyhow::Result<()> {
    let mut loaded = kernel.load(health)?;
    support::all_attached([&loaded])?;
    let program = loaded.slices()?.context("it cannot be attached in slices")?;
    let mut load = Slices::on_one_cpu(&[LOAD, name, "long"])?;
    let on = |load: &mut Slices| {
        thread::scope(|scope| {
            let attached = scope.spawn(|| {
                thread::sleep(WINDOW / 2);
                let slice = program.begin()?.context("it is detached")?;
                thread::sleep(ATTACHED);
                program.end(slice)
            });
            let cost = load.next()?;
            attached.join().map_err(|_| anyhow::anyhow!("the thread that attaches crashed"))??;
            anyhow::Ok(cost)
        })
    };
    let mut ratios = Vec::new();
    for _ in 0..QUADS {
        let off = load.next()?;
        let both = [on(&mut load)?, on(&mut load)?];
        ratios.extend([both[0] / off, both[1] / load.next()?]);
    }
    slices::print_ratios(&format!("health_{name}_slices_ratio"), &mut ratios);
    Ok(())
}

/// Runs in the load process: CPU nanoseconds per turn.
fn load(name: &str, is_long: bool) -> anyhow::Result<()> {
    let mut turn: Box<dyn FnMut() -> anyhow::Result<()>> = match name {
        "pids" => Box::new(|| {
            for _ in 0..64 {
                std::hint::black_box(rustix::process::getppid());
            }
            Ok(())
        }),
        "files" => Box::new(|| {
            std::fs::metadata("/proc/self/stat")?;
            Ok(File::open("/dev/zero")?.read_exact(&mut [0; 64])?)
        }),
        "failures" => {
            let mut full = File::options().write(true).open("/dev/full")?;
            Box::new(move || {
                anyhow::ensure!(full.write(&[0]).is_err(), "/dev/full took a byte");
                Ok(())
            })
        }
        other => bail!("no such load: {other}"),
    };
    let length = if is_long { WINDOW } else { SLICE };
    slices::each(|| {
        let (cpu_ns, end) = (slices::cpu_ns(), Instant::now() + length);
        let mut turns = 0;
        while Instant::now() < end {
            turn()?;
            turns += 1;
        }
        Ok((slices::cpu_ns() - cpu_ns) / f64::from(turns))
    })
}
