//! Cgroups below a container's, like those that processes in a container create.

use std::{ffi::OsStr, fs, io, path::PathBuf};

use super::{
    cgroup::{Cgroup, remove},
    process::Process,
};

/// One per hierarchy of its container. They are removed on drop.
pub(crate) struct Nested<'a> {
    _container: &'a Cgroup,
    /// The deepest first.
    made: Vec<PathBuf>,
    innermost: Vec<PathBuf>,
}

impl Cgroup {
    /// Creates a chain of nested cgroups with these names.
    pub(crate) fn nested<'a>(&self, names: impl IntoIterator<Item = &'a OsStr>) -> io::Result<Nested<'_>> {
        let mut nested = Nested { _container: self, made: Vec::new(), innermost: self.paths.clone() };
        for name in names {
            for path in &mut nested.innermost {
                path.push(name);
                fs::create_dir(&*path)?;
                nested.made.insert(0, path.clone());
            }
        }
        Ok(nested)
    }
}

impl Nested<'_> {
    /// Enables memory accounting for each of them if it is off.
    pub(crate) fn keep_memory(&self) {
        let parents = self.made.iter().rev().filter_map(|path| path.parent());
        for control in parents.map(|path| path.join("cgroup.subtree_control")).filter(|path| path.exists()) {
            fs::write(control, "+memory").unwrap();
        }
    }

    pub(crate) fn take(&self, process: &Process) {
        for path in &self.innermost {
            fs::write(path.join("cgroup.procs"), process.pid().to_string()).unwrap();
        }
    }
}

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        remove(&self.made);
    }
}
