//! A virtual machine that boots a kernel, runs its steps and exits.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail};

use super::image::{self, Programs};
use super::kernel::Kernel;
use super::{Boot, cache};
use crate::arch::Arch;
use crate::machine;
use crate::tally::{Reader, Tally};

/// No guest takes longer, however slow the machine. The guest ends itself a little earlier.
const LIMIT: Duration = Duration::from_secs(3600);
/// A guest with a panicked kernel exits within this time, or never does.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The emulator may fail even if the kernel is right, so a guest gets a second attempt. Once a test has
/// begun, or the kernel has reported a fault, there is no second attempt, because an intermittent failure
/// must not be hidden.
const ATTEMPTS: usize = 2;

/// The steps of a guest.
const DOCTOR: &str = "doctor";
const SELFTEST: &str = "selftest";
const TESTS: &str = "tests";

pub(super) struct Guest<'a> {
    kernel: &'a Kernel,
    boot: &'a Boot,
    programs: &'a Programs,
    /// Takes each line of the tests' output.
    show: &'a dyn Fn(&str),
}

/// The output of a guest.
#[derive(Default)]
pub(super) struct Said {
    /// The output of `tapio doctor`.
    pub(super) doctor: Vec<String>,
    pub(super) tests: Tally,
}

impl<'a> Guest<'a> {
    pub(super) fn new(
        kernel: &'a Kernel,
        boot: &'a Boot,
        programs: &'a Programs,
        show: &'a dyn Fn(&str),
    ) -> Self {
        Self { kernel, boot, programs, show }
    }

    /// Boots the guest, and runs the doctor and the tests with one of these filters in their names. Without
    /// filters it runs all tests and the self-test.
    pub(super) fn run(&self, filters: &[&str]) -> Result<Said> {
        let name = format!("initramfs-{}-{}-{}", std::process::id(), self.kernel.release, self.boot.name);
        let initrd = Temporary(cache()?.join(name));
        image::write(&initrd.0, &self.kernel.modules, self.programs, &self.steps(filters))?;
        let mut attempt = 1;
        loop {
            let mut steps = Steps::default();
            match self.boot(&initrd.0, &mut steps) {
                Err(error) if attempt < ATTEMPTS && !steps.tested && steps.fault.is_none() => {
                    (self.show)(&format!("kernel-test: {error:#}; once more"));
                    attempt += 1;
                }
                said => return said,
            }
        }
    }

    fn steps(&self, filters: &[&str]) -> String {
        let (tapio, tests) = (self.programs.tapio.display(), self.programs.tests.display());
        let selftest =
            if filters.is_empty() { format!("step {SELFTEST} '{tapio}' selftest\n") } else { String::new() };
        let filters = filters.join(" ");
        format!(
            "step {DOCTOR} '{tapio}' doctor --listen=off\n{selftest}\
             step {TESTS} '{tests}' --test-threads=1 --show-output {filters}\n"
        )
    }

    fn boot(&self, initrd: &PathBuf, steps: &mut Steps) -> Result<Said> {
        let mut command = emulator(self.kernel.arch, self.boot.counted)?;
        let console = match self.kernel.arch {
            Arch::Amd64 => "ttyS0",
            Arch::Arm64 => "ttyAMA0",
        };
        command.args([
            "-smp",
            "2",
            "-m",
            "1536",
            "-nodefaults",
            "-no-user-config",
            "-nographic",
            "-no-reboot",
        ]);
        command.args(["-serial", "stdio", "-kernel"]).arg(&self.kernel.image).arg("-initrd").arg(initrd);
        let parameters =
            format!("console={console} panic=-1 oops=panic quiet tapio.guest {}", self.boot.parameters);
        command.args(["-append", parameters.trim_end()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = Running(command.spawn().context("cannot run QEMU")?);
        let output = child.0.stdout.take().context("QEMU has no output")?;
        let pid = child.0.id();

        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send((line, cpu_time(pid).unwrap_or_default())).is_err() {
                    break;
                }
            }
        });
        steps.listen(&lines, self.show)
    }
}

/// Assigns lines to steps.
#[derive(Default)]
struct Steps {
    /// The current step.
    current: String,
    last: String,
    tests: Reader,
    /// Whether tests have begun.
    tested: bool,
    /// The kernel's fault message.
    fault: Option<String>,
    /// Exit code of each step.
    codes: HashMap<String, i32>,
}

impl Steps {
    /// Follows the guest's output until it ends.
    fn listen(&mut self, lines: &mpsc::Receiver<(String, Duration)>, show: &dyn Fn(&str)) -> Result<Said> {
        let mut deadline = Instant::now() + LIMIT;
        let mut said = Said::default();
        loop {
            let (line, cpu) = match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(both) => both,
                Err(RecvTimeoutError::Timeout) => bail!("the guest did not end; {}", self.last_words()),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // An emulated CPU may pause for so long that its kernel reports a lockup.
            let is_bug = line.contains("BUG:") && !line.contains("lockup");
            if line.contains("Kernel panic") || is_bug || line.contains("Oops") {
                show(&line);
                self.fault.get_or_insert_with(|| line.clone());
                deadline = deadline.min(Instant::now() + LAST_WORDS);
            }
            self.line(&line, cpu, &mut said, show);
        }
        self.finish(said)
    }

    fn last_words(&self) -> String {
        match &self.fault {
            Some(fault) => format!("its kernel failed: {fault}"),
            None => format!("the last it said: {}", self.last),
        }
    }

    fn line(&mut self, line: &str, cpu: Duration, said: &mut Said, show: &dyn Fn(&str)) {
        line.clone_into(&mut self.last);
        if let Some(name) = line.strip_prefix("@@begin ") {
            name.clone_into(&mut self.current);
            self.tested |= name == TESTS;
        } else if let Some((name, code)) = line.strip_prefix("@@end ").and_then(|rest| rest.split_once(' ')) {
            self.codes.insert(name.to_owned(), code.parse().unwrap_or(-1));
            self.current.clear();
        } else {
            match self.current.as_str() {
                DOCTOR => said.doctor.push(line.to_owned()),
                TESTS if !self.tests.line_at(line, cpu) => {}
                "" => {}
                _ => show(line),
            }
        }
    }

    fn finish(&mut self, mut said: Said) -> Result<Said> {
        let Some(&tests) = self.codes.get(TESTS) else {
            bail!("the guest ended before its tests did; {}", self.last_words());
        };
        said.tests = std::mem::take(&mut self.tests).finish(tests == 0);
        if let Some(fault) = &self.fault {
            said.tests.failed += 1;
            said.tests.notes.push(format!("FAILED the kernel: {fault}"));
        }
        if let Some(code) = self.codes.get(SELFTEST) {
            let passed = usize::from(*code == 0);
            said.tests.passed += passed;
            said.tests.failed += 1 - passed;
            if passed == 0 {
                said.tests.notes.push("FAILED tapio selftest".to_owned());
            }
        }
        // 1 means that something is missing, which the report names; a higher code is a panic or a signal.
        if self.codes.get(DOCTOR).is_none_or(|code| !(0..=1).contains(code)) {
            said.tests.failed += 1;
            said.tests.notes.push("FAILED tapio doctor: it did not end in order".to_owned());
        }
        Ok(said)
    }
}

/// The emulator with a machine and a CPU. Every kernel boots on the newest CPU model.
fn emulator(arch: Arch, counted: bool) -> Result<Command> {
    let (name, machine, cpu) = match arch {
        Arch::Amd64 => ("qemu-system-x86_64", "q35", "max"),
        Arch::Arm64 => ("qemu-system-aarch64", "virt,gic-version=3", "max,pauth-impdef=on"),
    };
    let program =
        machine::program(name).with_context(|| format!("{name} is missing: run `cargo xtask setup`"))?;
    let mut command = Command::new(program);
    // QEMU before 8 gets the flags of cmpxchg16b wrong, at random.
    let old = arch == Arch::Amd64 && version(&command)? < 8;
    let cpu = format!("{cpu}{}", if old { ",-cx16" } else { "" });
    // With a thread for each CPU, one executes what another has just rewritten: a breakpoint that the kernel
    // had already taken out of a tracepoint was hit.
    command.args(["-M", machine, "-cpu", &cpu, "-accel", "tcg,thread=single,tb-size=256"]);
    if counted {
        command.args(["-icount", "shift=1"]);
    }
    Ok(command)
}

/// CPU time of a process, from `/proc/PID/stat`: a guest's own clock includes the time that other processes
/// of this machine take.
fn cpu_time(pid: u32) -> Option<Duration> {
    /// USER_HZ, the same on every architecture that QEMU runs on here.
    const TICKS: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Skip the command name, which may contain spaces: utime is the 12th field after it, and stime the next.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Some(Duration::from_millis(ticks.iter().sum::<u64>() * 1000 / TICKS))
}

/// `QEMU emulator version 7.2.22 (Debian ...)`
fn version(program: &Command) -> Result<u32> {
    let text = machine::output(Command::new(program.get_program()).arg("--version"))?;
    let version = text.split("version ").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
    version.with_context(|| format!("odd version of QEMU: {text}"))
}

/// A process that is killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has exited already, unless this follows an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that is removed on drop.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(lines: &[&str]) -> Result<(Steps, Result<Said>)> {
        let (sender, receiver) = mpsc::channel();
        lines.iter().try_for_each(|line| sender.send(((*line).to_owned(), Duration::ZERO)))?;
        drop(sender);
        let mut steps = Steps::default();
        let said = steps.listen(&receiver, &|_| ());
        Ok((steps, said))
    }

    #[test]
    fn a_kernel_that_failed_is_told_whatever_became_of_the_tests() -> Result<()> {
        let whole = ["@@end doctor 0", "@@begin tests", "@@end tests 0"];
        let (steps, said) = listen(&whole)?;
        assert!(steps.tested);
        assert_eq!(said?.tests, Tally::default());

        let fault = "BUG: unable to handle page fault";
        let (_, said) = listen(&[&whole[..], &[fault]].concat())?;
        let Tally { failed, notes, .. } = said?.tests;
        assert_eq!((failed, notes), (1, vec![format!("FAILED the kernel: {fault}")]));

        let (steps, said) = listen(&["Kernel panic - not syncing: Fatal exception"])?;
        assert!(!steps.tested && steps.fault.is_some() && said.is_err());
        Ok(())
    }
}
