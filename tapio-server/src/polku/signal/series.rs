//! Calls of one entity, of one class, in one direction: a window at a time.

use std::sync::Arc;

use tapio_common::baseline::Baseline;
use tapio_occurrence::signal::{EXEMPLARS, Member, Phase};

use super::{
    histogram::Histogram,
    judge::{self, Judge, at_least},
    traces::{SpanId, TraceId},
};

/// Fewer calls are not judged: they are added to those of the next window.
const LEAST_CALLS: u64 = 20;
/// Windows after which too few calls are let go: a minute.
const THIN_WINDOWS: u32 = 4;
/// Pods of a signal.
const MAX_PODS: usize = 8;

/// A call, or several alike.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) end_ns: u64,
    pub(super) duration_us: u64,
    pub(super) failed: bool,
    pub(super) count: u64,
    pub(super) pod: Option<Arc<Member>>,
    pub(super) trace: Option<(TraceId, SpanId)>,
}

/// What was counted of an episode, or of the windows that may become one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// When it began; 0 if nothing was counted.
    pub(super) from_ns: u64,
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) durations: Histogram,
    pub(super) pods: Vec<Arc<Member>>,
    pub(super) traces: Vec<(TraceId, SpanId)>,
}

/// Which of the two a signal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Errors,
    Latency,
    Logs,
}

/// Something to say.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) about: About,
    pub(super) phase: Phase,
    /// When the episode began.
    pub(super) since_ns: u64,
    pub(super) tally: Tally,
    pub(super) normal: Baseline,
}

/// The calls of the current window.
#[derive(Debug, Default)]
struct Window {
    calls: u64,
    errors: u64,
    /// Of calls that did not fail.
    durations: Histogram,
    first_error_ns: u64,
    failed: Few,
    slow: Few,
    thin: u32,
}

/// Exemplars and pods of one sort of calls.
#[derive(Clone, Debug, Default)]
struct Few {
    traces: Vec<(u64, TraceId, SpanId)>,
    pods: Vec<Arc<Member>>,
}

/// What is known of the calls.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) last_ns: u64,
    window: Window,
    errors: Track,
    latency: Track,
}

#[derive(Debug, Default)]
struct Track {
    judge: Judge,
    tally: Tally,
    since_ns: u64,
}

impl Series {
    pub(super) fn add(&mut self, call: &Call, now_ns: u64) {
        self.last_ns = now_ns;
        let window = &mut self.window;
        window.calls += call.count;
        if call.failed {
            window.errors += call.count;
            window.first_error_ns = match window.first_error_ns {
                0 => call.end_ns,
                first => first.min(call.end_ns),
            };
            window.failed.add(call, 0);
            return;
        }
        window.durations.add(call.duration_us, call.count);
        let normal_us = self.latency.judge.baseline().mean();
        if call.duration_us > normal_us.saturating_mul(2) {
            window.slow.add(call, call.duration_us);
        }
    }

    /// Takes the exemplars and pods of the same calls from somewhere else.
    pub(super) fn take_few(&mut self, other: &mut Self) {
        let from = std::mem::take(&mut other.window);
        self.window.failed.merge(&from.failed);
        self.window.slow.merge(&from.slow);
        other.last_ns = 0;
    }

    pub(super) const fn is_calm(&self) -> bool {
        self.errors.judge.is_calm() && self.latency.judge.is_calm()
    }

    pub(super) fn is_learned(&self) -> bool {
        self.errors.judge.baseline().samples() > 16
    }

    /// Ends the window.
    pub(super) fn close(&mut self, from_ns: u64, length_ns: u64, now_ns: u64) -> Vec<Draft> {
        let mut said = Vec::new();
        if self.window.calls < LEAST_CALLS {
            self.window.thin += 1;
            let is_over = self.window.thin >= THIN_WINDOWS;
            for (about, track) in [(About::Errors, &mut self.errors), (About::Latency, &mut self.latency)] {
                let phase = track.judge.silence();
                said.extend(phase.map(|phase| track.draft(about, phase)));
            }
            if is_over {
                self.window = Window::default();
            }
            return said;
        }
        let window = std::mem::take(&mut self.window);
        let from_ns = from_ns.saturating_sub(u64::from(window.thin) * length_ns);
        let share = window.errors * 10_000 / window.calls;
        let certain = |normal: &Baseline| {
            at_least(window.errors, window.calls) > normal.mean() + judge::ERRORS.limits.floor
        };
        let (errors, latency) = (&mut self.errors, &mut self.latency);
        let first_ns = if window.first_error_ns == 0 { from_ns } else { window.first_error_ns };
        errors.count(&window, &window.failed, first_ns);
        let phase = errors.judge.step(&judge::ERRORS, share, now_ns, certain);
        said.extend(errors.after(About::Errors, phase));
        if window.durations.total() >= LEAST_CALLS
            && let Some(p90_us) = window.durations.p90_us()
        {
            latency.count(&window, &window.slow, from_ns);
            let phase = latency.judge.step(&judge::LATENCY, p90_us, now_ns, |_| true);
            said.extend(latency.after(About::Latency, phase));
        }
        said
    }
}

impl Track {
    fn count(&mut self, window: &Window, few: &Few, from_ns: u64) {
        let Tally { from_ns: first, calls, errors, durations, pods, traces } = &mut self.tally;
        if *first == 0 {
            *first = from_ns;
        }
        *calls += window.calls;
        *errors += window.errors;
        durations.merge(&window.durations);
        for pod in &few.pods {
            add_pod(pods, pod);
        }
        for (_, trace, span) in &few.traces {
            if traces.len() < EXEMPLARS && !traces.iter().any(|(known, _)| known == trace) {
                traces.push((*trace, *span));
            }
        }
    }

    fn after(&mut self, about: About, phase: Option<Phase>) -> Option<Draft> {
        if phase == Some(Phase::Began) {
            self.since_ns = self.tally.from_ns;
        }
        let said = phase.map(|phase| self.draft(about, phase));
        if self.judge.is_calm() {
            self.tally = Tally::default();
        }
        said
    }

    fn draft(&mut self, about: About, phase: Phase) -> Draft {
        let tally = std::mem::take(&mut self.tally);
        Draft { about, phase, since_ns: self.since_ns, tally, normal: *self.judge.normal() }
    }
}

impl Few {
    /// `rank`: with too many, those with a higher one stay.
    fn add(&mut self, call: &Call, rank: u64) {
        if let Some(pod) = &call.pod {
            add_pod(&mut self.pods, pod);
        }
        let Some((trace, span)) = call.trace else { return };
        if self.traces.iter().any(|(_, known, _)| *known == trace) {
            return;
        }
        if self.traces.len() < EXEMPLARS {
            self.traces.push((rank, trace, span));
        } else if let Some(lowest) = self.traces.iter_mut().min_by_key(|(rank, ..)| *rank)
            && lowest.0 < rank
        {
            *lowest = (rank, trace, span);
        }
    }

    fn merge(&mut self, other: &Self) {
        other.pods.iter().for_each(|pod| add_pod(&mut self.pods, pod));
        let known: Vec<_> = self.traces.iter().map(|(_, trace, _)| *trace).collect();
        self.traces.extend(other.traces.iter().filter(|(_, trace, _)| !known.contains(trace)));
        self.traces.truncate(EXEMPLARS);
    }
}

fn add_pod(pods: &mut Vec<Arc<Member>>, pod: &Arc<Member>) {
    if pods.len() < MAX_PODS && !pods.contains(pod) {
        pods.push(Arc::clone(pod));
    }
}

/// Log records of an entity.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) last_ns: u64,
    window: Window,
    track: Track,
    /// The share of errors among records, smoothed, in parts of 10,000.
    share: u64,
}

impl Records {
    pub(super) fn add(&mut self, record: &Call, now_ns: u64) {
        self.last_ns = now_ns;
        self.window.calls += 1;
        if record.failed {
            self.window.errors += 1;
            if self.window.first_error_ns == 0 {
                self.window.first_error_ns = record.end_ns;
            }
            self.window.failed.add(record, 0);
        }
    }

    pub(super) const fn is_calm(&self) -> bool {
        self.track.judge.is_calm()
    }

    /// Ends the window. More errors are abnormal only if there are not just more records: their share has to be half more
    /// than it was, unless most records are errors anyway.
    pub(super) fn close(&mut self, from_ns: u64, now_ns: u64) -> Option<Draft> {
        let window = std::mem::take(&mut self.window);
        let now = (window.errors * 10_000).checked_div(window.calls).unwrap_or_default();
        let was = self.share;
        let first_ns = if window.first_error_ns == 0 { from_ns } else { window.first_error_ns };
        self.track.count(&window, &window.failed, first_ns);
        let is_more = was > 5_000 || now >= was + was / 2;
        let phase = self.track.judge.step(&judge::LOGS, window.errors, now_ns, |_| is_more);
        if self.track.judge.is_calm() && window.calls > 0 {
            self.share = (was * 7 + now) / 8;
        }
        self.track.after(About::Logs, phase)
    }
}
