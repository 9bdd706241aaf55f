//! Uses up what a process may have, and goes on asking for more.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    thread,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, setrlimit};

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// More than there is.
const GIB: usize = 1 << 30;

/// Asks in the background, until the process ends.
pub(super) fn exhaust(what: &str, argument: String) -> io::Result<()> {
    let attempt: Box<dyn FnMut() + Send> = match what {
        "append" => {
            let mut file = OpenOptions::new().append(true).create(true).open(argument)?;
            Box::new(move || drop(file.write_all(&[1; 1 << 16])))
        }
        "create" => Box::new(move || drop(File::create(&argument))),
        "files" => {
            limit(Resource::Nofile, argument.parse().expect("a number"));
            let mut files = Vec::new();
            Box::new(move || {
                while let Ok(file) = File::open("/dev/null") {
                    files.push(file);
                }
            })
        }
        "memory" => {
            limit(Resource::As, argument.parse().expect("a number"));
            Box::new(|| drop(Vec::<u8>::new().try_reserve_exact(GIB)))
        }
        "threads" => Box::new(|| drop(thread::Builder::new().spawn(|| ()))),
        other => return Err(io::Error::other(format!("nothing to exhaust: {other}"))),
    };
    thread::Builder::new().spawn(move || repeat(attempt)).map(drop)
}

fn repeat(mut attempt: impl FnMut()) {
    loop {
        attempt();
        thread::sleep(PAUSE);
    }
}

fn limit(resource: Resource, most: u64) {
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).expect("a limit");
}
