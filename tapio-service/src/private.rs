//! The state directory: only this user can read it, and files that others have put there are not used.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::geteuid,
};

/// Write permission for the file's group, and for all others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Creates a directory and its missing parents, for this user only.
///
/// # Errors
/// The directory cannot be created.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Like [`make_directory`], for one inside the state directory: a symbolic link in its place is not followed.
///
/// # Errors
/// The directory cannot be created, or is a symbolic link.
pub fn make_inner_directory(path: &Path) -> io::Result<()> {
    make_directory(path)?;
    if fs::symlink_metadata(path)?.is_dir() {
        return Ok(());
    }
    Err(io::Error::other(format!("{} is a symbolic link, and is not followed", path.display())))
}

/// Who else may write to a directory, for messages; `None` if only root and this user may, or if that cannot
/// be determined.
#[must_use]
pub fn others_may_write(directory: &Path) -> Option<String> {
    let metadata = fs::metadata(directory).ok()?;
    shared(&metadata)
}

/// Opens a file for reading.
///
/// # Errors
/// The file does not exist, is a symbolic link, is not a regular file, or others may write to it.
pub fn open(path: &Path) -> io::Result<File> {
    checked(path, OFlags::RDONLY)
}

/// Opens a file for reading and writing. Creates it for this user only if it does not exist.
///
/// # Errors
/// As for [`open`].
pub fn open_or_create(path: &Path) -> io::Result<File> {
    checked(path, OFlags::RDWR | OFlags::CREATE)
}

/// Creates a file for writing, for this user only, replacing anything of the same name.
///
/// # Errors
/// The file cannot be created, or the old one cannot be removed.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    checked(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
}

fn checked(path: &Path, flags: OFlags) -> io::Result<File> {
    // NONBLOCK keeps a FIFO that someone put there from blocking. It does not affect regular files.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err(io::Error::other("it is a symbolic link, and is not followed")),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.nlink() > 1 {
        return Err(io::Error::other("it has another name: a hard link"));
    }
    match shared(&metadata) {
        Some(why) => Err(io::Error::other(format!("{why}, so it may not be the agent's own"))),
        None => Ok(file),
    }
}

fn shared(metadata: &Metadata) -> Option<String> {
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return Some(format!("it belongs to another user (uid {})", metadata.uid()));
    }
    (mode & WRITABLE_BY_OTHERS != 0).then(|| format!("others may write to it (mode {mode:04o})"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::fs::{PermissionsExt as _, symlink},
        time::Duration,
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_for_this_user_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        make_inner_directory(&state.join("spool")).unwrap();
        assert_eq!([mode(&dir.path().join("a")), mode(&state), mode(&state.join("spool"))], [0o700; 3]);
        drop(open_or_create(&state.join("one")).unwrap());
        drop(create_anew(&state.join("two")).unwrap());
        assert_eq!([mode(&state.join("one")), mode(&state.join("two"))], [0o600; 2]);
        assert_eq!(others_may_write(&state), None);
        assert_eq!(open(&state.join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Each of these stands in place of a file of the agent.
    #[test]
    fn what_others_put_there_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let victim = at("victim");
        fs::write(&victim, "precious").unwrap();
        let places = ["link", "dangling", "hard", "pipe", "directory", "writable"].map(at);
        symlink(&victim, &places[0]).unwrap();
        symlink(at("nowhere"), &places[1]).unwrap();
        fs::hard_link(&victim, &places[2]).unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(&places[3]).status();
        assert!(pipe.unwrap().success());
        fs::create_dir(&places[4]).unwrap();
        fs::write(&places[5], "").unwrap();
        fs::set_permissions(&places[5], fs::Permissions::from_mode(0o666)).unwrap();
        let (sender, done) = std::sync::mpsc::channel();
        let tried = places.clone();
        std::thread::spawn(move || {
            let opened = tried.each_ref().map(|place| (open(place).is_ok(), open_or_create(place).is_ok()));
            sender.send(opened).unwrap();
        });
        let opened = done.recv_timeout(Duration::from_secs(10)).expect("a pipe holds it up");
        assert_eq!(opened, [(false, false); 6]);
        for place in places.iter().filter(|place| !place.ends_with("directory")) {
            create_anew(place).unwrap().write_all(b"own").unwrap();
            let mut own = String::new();
            open(place).unwrap().read_to_string(&mut own).unwrap();
            assert_eq!(own, "own");
        }
        assert!(create_anew(&places[4]).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!at("nowhere").exists());
        let said = open(&{
            symlink(&victim, at("again")).unwrap();
            at("again")
        });
        assert_eq!(said.unwrap_err().to_string(), "it is a symbolic link, and is not followed");
    }

    #[test]
    fn a_directory_that_others_may_write_to_or_that_is_a_link_is_said() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, expected) in [
            (0o700, None),
            (0o755, None),
            (0o775, Some("others may write to it (mode 0775)")),
            (0o1777, Some("others may write to it (mode 1777)")),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(others_may_write(dir.path()).as_deref(), expected);
        }
        let link = dir.path().join("spool");
        symlink(std::env::temp_dir(), &link).unwrap();
        assert!(make_inner_directory(&link).is_err());
    }

    #[test]
    fn a_file_of_another_user_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("learned");
        fs::write(&path, "").unwrap();
        if std::os::unix::fs::chown(&path, Some(4242), None).is_err() {
            println!("SKIP a_file_of_another_user_is_not_opened: to give a file away takes root");
            return;
        }
        let said = open(&path).unwrap_err().to_string();
        assert!(said.starts_with("it belongs to another user (uid 4242)"), "{said}");
    }
}
