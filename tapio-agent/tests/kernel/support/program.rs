//! A program of a few instructions, in a file that is removed on drop: for instructions that no compiler
//! emits, and for processes that cost almost nothing.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

pub(crate) struct Program(PathBuf);

impl Program {
    /// Writes machine code for this architecture under a name. The kernel uses the first 15 bytes as the
    /// command name.
    pub(crate) fn new(name: &str, code: &[u8]) -> io::Result<Self> {
        let machine: u16 = if std::env::consts::ARCH == "x86_64" { 62 } else { 183 };
        let (base, size) = (0x40_0000_u64, 120 + code.len() as u64);
        // An ELF header and one segment that spans the file, elf(5).
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        [base + 120, 64, 0].iter().for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(0_u32.to_le_bytes());
        [64_u16, 56, 1, 0, 0, 0].iter().for_each(|half| file.extend(half.to_le_bytes()));
        file.extend(1_u32.to_le_bytes());
        file.extend(5_u32.to_le_bytes());
        [0, base, base, size, size, 4096].iter().for_each(|word| file.extend(word.to_le_bytes()));
        file.extend(code);
        let program = Self(std::env::temp_dir().join(format!("{name}-{:08x}", fastrand::u32(..))));
        fs::write(&program.0, file)?;
        fs::set_permissions(&program.0, fs::Permissions::from_mode(0o755))?;
        Ok(program)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
