//! `kubectl tapio`: asks the central side of Tapio why something failed.
#![forbid(unsafe_code)]

mod address;
mod attention;
mod cli;
mod connection;
mod correlate;
mod facts;
mod failure;
mod feedback;
mod get;
mod identity;
mod open;
mod output;
mod tls;
mod why;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use tapio_occurrence::printable::printable;

use self::{
    cli::{Arguments, Command},
    failure::Failure,
};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A failure means that the terminal is gone: nobody could read about it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(failure::USAGE));
        }
    };
    match run(arguments) {
        Ok((text, code)) => {
            // A reader that stops early, such as `head`, is not an error.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::from(code)
        }
        Err(failure) => {
            let text = failure.to_string();
            // Text of several lines is a whole answer.
            let lines: Vec<_> = text.lines().map(printable).collect();
            eprintln!("error: {}", lines.join("\n"));
            ExitCode::from(failure.code())
        }
    }
}

/// Returns what to print, and the exit code.
fn run(arguments: Arguments) -> Result<(String, u8), Failure> {
    let Arguments { reach, command } = arguments;
    match command {
        Command::Replay(replay) => facts::replay(&replay).map(|text| (text, 0)),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "kubectl-tapio", &mut text);
            Ok((String::from_utf8_lossy(&text).into_owned(), 0))
        }
        asking => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::Other(anyhow::Error::new(error)))?;
            runtime.block_on(async move {
                match asking {
                    Command::Why(asked) => why::why(&reach, &asked).await,
                    Command::Open(asked) => open::open(&reach, &asked).await.map(|text| (text, 0)),
                    Command::Get(what) => get::get(&reach, &what).await.map(|text| (text, 0)),
                    Command::Correlate(asked) => {
                        correlate::correlate(&reach, &asked).await.map(|text| (text, 0))
                    }
                    Command::Ack(given) => attention::ack(&reach, &given).await.map(|text| (text, 0)),
                    Command::Mute(given) => attention::mute(&reach, &given).await.map(|text| (text, 0)),
                    Command::Feedback(given) => {
                        feedback::feedback(&reach, &given).await.map(|text| (text, 0))
                    }
                    Command::Export(export) => facts::export(&reach, &export).await.map(|text| (text, 0)),
                    Command::Doctor => connection::doctor(&reach).await.map(|text| (text, 0)),
                    Command::Replay(_) | Command::Completions { .. } => Ok((String::new(), 0)),
                }
            })
        }
    }
}
