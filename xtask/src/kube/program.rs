//! Programs that run in the background and keep their pid and output in files of a directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Poll interval while waiting for a program.
const LOOK: Duration = Duration::from_millis(100);
/// Time allowed for a program to exit before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    name: String,
    directory: PathBuf,
}

impl Program {
    /// The program of this name, running or not.
    pub(crate) fn new(name: &str, directory: &Path) -> Self {
        Self { name: name.to_owned(), directory: directory.to_owned() }
    }

    /// Starts it. An argument must name the directory, because that identifies its process.
    pub(crate) fn start(&self, mut command: Command) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        let log = self.log();
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("cannot write {}", log.display()))?;
        // A separate process group, so that Ctrl-C in the terminal does not end it.
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.name))?;
        fs::write(self.pid_file(), child.id().to_string())
            .with_context(|| format!("cannot write {}", self.pid_file().display()))?;
        // For a moment the new process has no arguments to identify it.
        while self.pid().is_none() && child.try_wait().context("a child cannot be asked for")?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Its pid, as long as that is still the process that was started.
    pub(crate) fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let directory = self.directory.as_os_str().as_encoded_bytes();
        words.windows(directory.len()).any(|part| part == directory).then_some(pid)
    }

    /// Waits until `ready` returns true; fails if the program exits first or the time is up.
    pub(crate) fn wait_until(&self, patience: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + patience;
        while !ready() {
            if self.pid().is_none() || Instant::now() > end {
                let said = fs::read_to_string(self.log()).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n");
                bail!("{} is not ready after {} s:\n{last}", self.name, patience.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Sends it a signal, such as `STOP`; does nothing if it is not running.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let pid = pid.to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).stderr(Stdio::null()).status();
        status.with_context(|| format!("cannot run kill for {}", self.name))?;
        Ok(())
    }

    /// Stops it, and returns when it has exited.
    pub(crate) fn stop(&self) -> Result<()> {
        for signal in ["TERM", "KILL"] {
            self.signal(signal)?;
            let end = Instant::now() + PATIENCE;
            while self.pid().is_some() && Instant::now() < end {
                std::thread::sleep(LOOK);
            }
        }
        match self.pid() {
            Some(pid) => bail!("{} (process {pid}) does not end", self.name),
            None => Ok(()),
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join(format!("{}.pid", self.name))
    }

    fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_was_started_is_ended() -> Result<()> {
        let directory = std::env::temp_dir().join(format!("tapio-program-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let program = Program::new("sleeper", &directory);
        assert_eq!(program.pid(), None);
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60; true"]).arg(&directory);
        program.start(command)?;
        let first = program.pid();
        assert!(first.is_some());
        program.stop()?;
        assert_eq!(program.pid(), None);
        // A pid that now belongs to another process: to this test itself, which survives.
        fs::write(program.pid_file(), std::process::id().to_string())?;
        assert_eq!(program.pid(), None);
        program.stop()?;
        let ended = program.wait_until(Duration::from_secs(60), || false).unwrap_err().to_string();
        assert!(ended.contains("sleeper is not ready"), "{ended}");
        fs::remove_dir_all(&directory)?;
        Ok(())
    }
}
