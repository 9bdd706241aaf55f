//! Measures the CPU observer: a run of its program at each context switch against an empty one in the same run, and the CPU
//! of two threads that do nothing but switch, and of a request and its response, with the observer and without.

mod support;

use std::{
    env,
    io::{self, Read as _, Write as _},
    thread,
    time::Instant,
};

use anyhow::bail;
use support::{
    compare::{self, SLICE},
    slices::{self, Slices},
};
use tapio_agent::{
    kernel::Kernel,
    observer::{Attach, Built, Hook, Object, cpu::Cpu},
};

const LOAD: &str = "slices";
const EMPTY: &[Hook] = &[Hook {
    program: "empty_switch",
    attach: Attach::BtfTracepoint("sched_switch"),
    needs: &[],
    gives: "",
    or: &[],
}];

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip_while(|argument| argument != LOAD).skip(1);
    if let Some(name) = arguments.next() {
        return load(&name);
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    let cpu = Built::new::<Cpu>(&Default::default());
    let cpu = cpu.object()?;
    let settings = support::settings();
    let empty = Object { hooks: EMPTY, ..support::bench_object(&settings)? };
    for name in ["switch", "request"] {
        program(&kernel, &cpu, &empty, name)?;
        compare::print_paired(&format!("cpu_{name}_ratio"), &kernel, &cpu, start(name)?)?;
        // What the hook costs by itself.
        compare::print_paired(&format!("cpu_{name}_empty_ratio"), &kernel, &empty, start(name)?)?;
    }
    Ok(())
}

/// The time of a run.
fn program(kernel: &Kernel, cpu: &Object<'_>, empty: &Object<'_>, name: &str) -> anyhow::Result<()> {
    let (cpu, empty) = (kernel.load(cpu)?, kernel.load(empty)?);
    support::all_attached([&cpu, &empty])?;
    let least = compare::least(&[&cpu, &empty], &mut start(name)?)?;
    let (ns, empty_ns) = (least[0][0], least[1][0]);
    println!("cpu_program_{name}_ratio {:.2} x", ns / empty_ns);
    println!("cpu_program_{name}_net_ns {:.1} ns", ns - empty_ns);
    Ok(())
}

fn start(name: &str) -> anyhow::Result<Slices> {
    Slices::on_one_cpu(&[LOAD, name])
}

/// Runs in the load process: CPU nanoseconds per turn.
fn load(name: &str) -> anyhow::Result<()> {
    let mut turn: Box<dyn FnMut() -> anyhow::Result<()>> = match name {
        "request" => {
            let pair = support::Pair::connect()?;
            Box::new(move || pair.ask_once())
        }
        "switch" => {
            let (mut there, mut to) = io::pipe()?;
            let (mut from, mut back) = io::pipe()?;
            thread::spawn(move || {
                let mut byte = [0];
                while there.read_exact(&mut byte).is_ok() && back.write_all(&byte).is_ok() {}
            });
            Box::new(move || {
                to.write_all(&[0])?;
                Ok(from.read_exact(&mut [0])?)
            })
        }
        other => bail!("no such load: {other}"),
    };
    slices::each(|| {
        let (cpu_ns, end) = (slices::cpu_ns(), Instant::now() + SLICE);
        let mut turns = 0;
        while Instant::now() < end {
            turn()?;
            turns += 1;
        }
        Ok((slices::cpu_ns() - cpu_ns) / f64::from(turns))
    })
}
