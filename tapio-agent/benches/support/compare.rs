//! Compares programs with empty ones on the same hooks, and an application with programs attached and without.

use std::time::Duration;

use tapio_agent::{
    kernel::{self, Kernel, Loaded},
    observer::{self, Built, Object},
    source::{RunTime, Source as _},
};

use super::{
    all_attached,
    slices::{self, Slices},
};

const WINDOWS: usize = 5;
/// Slices of a window.
const SLICES: usize = 8;
/// Groups of four slices, in the order off, on, on, off, so that drift of the machine affects both equally.
const QUADS: usize = 75;
/// Length of a slice.
pub(crate) const SLICE: Duration = Duration::from_millis(50);

/// Nanoseconds of a run of each program of each of these under a load, as the kernel measures it (`bpf_stats`, including
/// its two clock reads): the least of five windows, all in the same ones.
pub(crate) fn least(all: &[&Loaded], load: &mut Slices) -> anyhow::Result<Vec<Vec<f64>>> {
    let _measuring = kernel::measure()?;
    let mut least: Vec<_> = all.iter().map(|loaded| vec![f64::MAX; times(loaded).len()]).collect();
    for _ in 0..WINDOWS {
        let before: Vec<_> = all.iter().map(|loaded| times(loaded)).collect();
        (0..SLICES).try_for_each(|_| load.next().map(drop))?;
        let after: Vec<_> = all.iter().map(|loaded| times(loaded)).collect();
        for (least, (before, after)) in least.iter_mut().zip(before.iter().zip(&after)) {
            for (least, (before, after)) in least.iter_mut().zip(before.iter().zip(after)) {
                anyhow::ensure!(after.runs > before.runs, "the load ran no program");
                let ns = (after.total - before.total).as_nanos() as f64;
                *least = least.min(ns / (after.runs - before.runs) as f64);
            }
        }
    }
    Ok(least)
}

/// Of all its programs, in the order of the hooks.
fn times(loaded: &Loaded) -> Vec<RunTime> {
    loaded.run_times().into_iter().map(|(_, time)| time).collect()
}

/// Prints the cost of a load with an object's programs attached, compared with without, in pairs.
pub(crate) fn print_paired(
    figure: &str,
    kernel: &Kernel,
    object: &Object<'_>,
    load: Slices,
) -> anyhow::Result<()> {
    print_paired_of(figure, kernel, &[object], load)
}

/// The same with those of all observers. The one that is attached in slices of time is not: what it costs is measured
/// by itself.
pub(crate) fn print_paired_all(figure: &str, kernel: &Kernel, load: Slices) -> anyhow::Result<()> {
    let mut built = observer::build(observer::NAMES, &observer::Settings::default());
    built.retain(|built| !built.hooks.is_empty());
    let objects = built.iter().map(Built::object).collect::<anyhow::Result<Vec<_>>>()?;
    print_paired_of(figure, kernel, &objects.iter().collect::<Vec<_>>(), load)
}

fn print_paired_of(
    figure: &str,
    kernel: &Kernel,
    objects: &[&Object<'_>],
    mut load: Slices,
) -> anyhow::Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..QUADS {
        let off = load.next()?;
        let loaded = objects.iter().map(|object| kernel.load(object)).collect::<Result<Vec<_>, _>>()?;
        all_attached(&loaded)?;
        load.next()?;
        let on = [load.next()?, load.next()?];
        drop(loaded);
        ratios.extend([on[0] / off, on[1] / load.next()?]);
    }
    slices::print_ratios(figure, &mut ratios);
    Ok(())
}
