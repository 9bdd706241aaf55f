//! Programs on a hook that is expensive: attached for slices of time, and what they count is read after each.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{BtfTracePoint, tp_btf::BtfTracePointLinkId},
};
use tapio_common::health::{Call, FAILURES, Failures};

use super::{Loaded, take};
use crate::observer::Attach;

const CALL_WORDS: usize = size_of::<Call>() / size_of::<u64>();
const FAILURES_WORDS: usize = size_of::<Failures>() / size_of::<u64>();

/// A loaded program that is attached in slices of time.
#[derive(Debug)]
pub struct Slices {
    programs: Arc<Mutex<Option<Ebpf>>>,
    program: &'static str,
    failures: HashMap<MapData, [u64; CALL_WORDS], [u64; FAILURES_WORDS]>,
}

/// A slice that has begun.
#[derive(Debug)]
pub struct Slice(BtfTracePointLinkId);

impl Loaded {
    /// Returns the program that is attached in slices, once. `None` if this kernel does not support it.
    ///
    /// # Errors
    /// It was taken before.
    pub fn slices(&mut self) -> anyhow::Result<Option<Slices>> {
        let in_slices = |by: Attach| matches!(by, Attach::Slices(_));
        let Some(hook) = self.hooks.iter().find(|hook| in_slices(hook.by.attach) && hook.state.is_ok())
        else {
            return Ok(None);
        };
        let program = hook.by.program;
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = take(programs.as_mut().context("the programs are detached")?, FAILURES)?;
        Ok(Some(Slices {
            programs: Arc::clone(&self.programs),
            program,
            failures: HashMap::try_from(failures)?,
        }))
    }
}

impl Slices {
    /// Attaches the program; `None` once the agent has detached all. Takes no capability but CAP_BPF.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn begin(&self) -> anyhow::Result<Option<Slice>> {
        self.with_program(|program| Ok(Slice(program.attach()?)))
    }

    /// Detaches it.
    ///
    /// # Errors
    /// The kernel refuses it, which it has no reason to do.
    pub fn end(&self, slice: Slice) -> anyhow::Result<()> {
        self.with_program(|program| Ok(program.detach(slice.0)?)).map(|_| ())
    }

    fn with_program<T>(
        &self,
        act: impl FnOnce(&mut BtfTracePoint) -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        let mut programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(programs) = programs.as_mut() else { return Ok(None) };
        let program = programs.program_mut(self.program).context("the object lacks the program")?;
        act(program.try_into()?).with_context(|| format!("{} in slices", self.program)).map(Some)
    }

    /// What has failed since the program was loaded.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn failures(&self) -> anyhow::Result<Vec<(Call, Failures)>> {
        let all = self.failures.iter().map(|entry| {
            let (call, failures) = entry?;
            Ok((bytemuck::cast(call), bytemuck::cast(failures)))
        });
        all.collect()
    }
}
