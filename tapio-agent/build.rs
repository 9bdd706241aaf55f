//! Compiles the kernel programs with their own toolchain and embeds them: `OUT_DIR/objects.rs` has one
//! function, `object(name)`, that returns an observer's object file.

#[path = "../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "xtask uses the rest")]
mod toolchain;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use toolchain::Toolchain;

/// The reason for a missing object file: one line, or the compiler's full output.
enum Failure {
    Line(String),
    Compiler(String),
}

fn main() -> ExitCode {
    match kernel_objects() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Line(line)) => {
            println!("cargo::error={line}");
            ExitCode::SUCCESS // cargo shows the line and fails; another code would bury it in a dump
        }
        Err(Failure::Compiler(text)) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn kernel_objects() -> Result<(), Failure> {
    let workspace = variable("CARGO_MANIFEST_DIR")?.join("..");
    let out = variable("OUT_DIR")?;
    for input in ["Cargo.toml", "Cargo.lock", "tapio-common", "tapio-ebpf", "xtask/src/toolchain.rs"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={}", toolchain::ROUTE_VARIABLE);

    let names = program_names(&workspace.join("tapio-ebpf/src/bin"))?;
    if !names.is_empty() {
        let toolchain = toolchain::find().map_err(Failure::Line)?;
        println!("cargo::rerun-if-changed={}", toolchain.linker().display());
        let objects = compile(&toolchain, &workspace, &target_directory(&out)?)?;
        for name in &names {
            copy(&objects.join(name), &out.join(format!("{name}.o")))?;
        }
    }
    let table = out.join("objects.rs");
    fs::write(&table, objects_rs(&names)).map_err(|error| failed(&table, &error))
}

/// Each file in `tapio-ebpf/src/bin` is one program. The names are sorted.
fn program_names(directory: &Path) -> Result<Vec<String>, Failure> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in directory.read_dir().map_err(|error| failed(directory, &error))? {
        let path = entry.map_err(|error| failed(directory, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Builds all programs and returns their directory.
fn compile(toolchain: &Toolchain, workspace: &Path, target: &Path) -> Result<PathBuf, Failure> {
    let mut cargo = toolchain.build(workspace, target);
    let output = cargo
        .arg("--quiet")
        .output()
        .map_err(|error| Failure::Line(format!("cannot run {cargo:?}: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure::Compiler(format!("tapio-ebpf does not compile:\n{said}")));
    }
    for warning in warnings(&said) {
        println!("cargo::warning={warning}");
    }
    Ok(target.join(toolchain::TARGET).join(toolchain::PROFILE))
}

/// Returns each compiler warning as one line with its location.
fn warnings(said: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(warning) = line.strip_prefix("warning: ") else { continue };
        let place = lines.peek().and_then(|next| next.trim_start().strip_prefix("--> "));
        warnings.push(place.map_or_else(|| warning.to_owned(), |place| format!("{place}: {warning}")));
    }
    warnings
}

/// Uses a separate target directory, because the outer cargo holds the lock on the usual one. It lies next to
/// the outer cargo's profiles, so that all builds share it: every agent embeds the same object files,
/// whatever its architecture.
fn target_directory(out: &Path) -> Result<PathBuf, Failure> {
    // The path is <target>/<profile>/build/<package>/out, or <target>/<triple>/<profile>/... with --target.
    let above =
        out.ancestors().nth(4).ok_or_else(|| Failure::Line(format!("odd OUT_DIR {}", out.display())))?;
    let triple = env::var_os("TARGET").filter(|triple| above.ends_with(triple));
    Ok(if triple.is_some() { above.with_file_name("bpf") } else { above.join("bpf") })
}

/// The table of object files. An ELF parser reads 64-bit fields in place, so each object is aligned to 8
/// bytes.
fn objects_rs(names: &[String]) -> String {
    let mut text = String::from(
        "/// The kernel programs of the observer of this name, as an ELF object.\n\
         pub(crate) fn object(name: &str) -> Option<&'static [u8]> {\n\
         \x20   #[allow(dead_code)]\n\
         \x20   #[repr(C, align(8))]\n\
         \x20   struct Aligned<Bytes: ?Sized>(Bytes);\n\
         \x20   match name {\n",
    );
    for name in names {
        let bytes = format!("*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.o\"))");
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "        {name:?} => {{\n            static OBJECT: &Aligned<[u8]> = &Aligned({bytes});\n            \
             Some(&OBJECT.0)\n        }}"
        );
    }
    text.push_str("        _ => None,\n    }\n}\n");
    text
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::copy(from, to).map(|_| ()).map_err(|error| failed(from, &error))
}

fn variable(name: &str) -> Result<PathBuf, Failure> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| Failure::Line(format!("cargo did not set {name}")))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Line(format!("{}: {error}", path.display()))
}
