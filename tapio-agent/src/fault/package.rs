//! Programs of this host that faults are caused with.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use super::NotCaused;

/// A package of programs, by the name that distributions have for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Package(pub(super) &'static str);

impl Package {
    /// Runs a program of it. A failure means that the fault cannot be caused on this host.
    pub(super) fn run(self, program: &str, arguments: &[&str], remedy: &str) -> Result<(), NotCaused> {
        // Its own process group: Ctrl-C in the terminal does not stop it halfway.
        let output = match Command::new(program).args(arguments).process_group(0).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => output,
            Err(error) => {
                let reason = if error.kind() == io::ErrorKind::NotFound {
                    format!("there is no `{program}` here")
                } else {
                    format!("`{program}` cannot be run: {error}")
                };
                return Err(NotCaused::Impossible { reason, remedy: format!("install {}", self.0) });
            }
        };
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().replace('\n', ", ");
        let reason = format!("`{program} {}`: {said}", arguments.join(" "));
        Err(NotCaused::Impossible { reason, remedy: remedy.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let Err(NotCaused::Impossible { reason, remedy }) =
            Package("iproute2").run("no-such-program", &[], "")
        else {
            panic!("it is there");
        };
        assert_eq!(
            (reason.as_str(), remedy.as_str()),
            ("there is no `no-such-program` here", "install iproute2")
        );
        let Err(NotCaused::Impossible { reason, remedy }) =
            Package("").run("sh", &["-c", "echo no >&2; exit 1"], "be root")
        else {
            panic!("it works");
        };
        assert!(reason.ends_with(": no"), "{reason}");
        assert_eq!(remedy, "be root");
    }
}
