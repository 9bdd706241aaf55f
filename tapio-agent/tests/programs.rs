//! The compiled kernel programs: what a kernel of 5.10 needs of them, and newer ones let pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, HashSet};

use aya_obj::{Object, generated::bpf_insn};
use tapio_agent::observer::{self, NAMES, Settings};

/// `BPF_JMP | BPF_CALL`, and what marks a call of another function of the program.
const CALL: (u8, u8) = (0x85, 1);
/// `BPF_ALU64 | BPF_ADD | BPF_K`: how the address of a local is made of the frame's.
const ADD: u8 = 0x07;
/// `BPF_ALU64 | BPF_MOV | BPF_X`
const MOVE: u8 = 0xbf;
const FRAME: u8 = 10;
/// `MAX_BPF_STACK`, include/linux/filter.h.
const STACK: i32 = 512;

/// All programs by name, each with the functions that it calls behind it, as kernels get them.
fn programs() -> BTreeMap<String, Vec<bpf_insn>> {
    let mut all = BTreeMap::new();
    for built in observer::build(NAMES, &Settings::default()).iter().filter(|built| !built.hooks.is_empty()) {
        let mut object = Object::parse(built.object().unwrap().bytes).unwrap();
        let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_calls(&sections).unwrap();
        all.extend(object.programs.iter().map(|(name, program)| {
            let function = &object.functions[&program.function_key()];
            (format!("{} {name}", built.name), function.instructions.clone())
        }));
    }
    all
}

/// Where its functions begin.
fn functions(program: &[bpf_insn]) -> Vec<usize> {
    let mut starts: Vec<_> = program.iter().enumerate().filter_map(|(at, _)| called(program, at)).collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    starts
}

fn called(program: &[bpf_insn], at: usize) -> Option<usize> {
    let instruction = program[at];
    ((instruction.code, instruction.src_reg()) == CALL)
        .then(|| usize::try_from(i64::try_from(at).unwrap() + 1 + i64::from(instruction.imm)).unwrap())
}

/// The stack of the function that begins there and of what it calls. Each frame is a multiple of 32 bytes.
fn stack(program: &[bpf_insn], starts: &[usize], start: usize) -> i32 {
    let end = starts.iter().find(|other| **other > start).copied().unwrap_or(program.len());
    let (mut own, mut calls, mut of_frame) = (1, 0, None);
    for at in start..end {
        let instruction = program[at];
        let depth = match instruction.code {
            MOVE if instruction.src_reg() == FRAME => {
                of_frame = Some(instruction.dst_reg());
                0
            }
            ADD if of_frame == Some(instruction.dst_reg()) => -instruction.imm,
            // A load or a store.
            code if code & 0x04 == 0 && instruction.off < 0 => {
                let is_load = code & 0x07 == 0x01;
                let base = if is_load { instruction.src_reg() } else { instruction.dst_reg() };
                if base == FRAME { -i32::from(instruction.off) } else { 0 }
            }
            _ => 0,
        };
        own = own.max(depth);
        if let Some(function) = called(program, at) {
            calls = calls.max(stack(program, starts, function));
        }
    }
    (own + 31) / 32 * 32 + calls
}

#[test]
fn the_stack_of_a_program_and_all_that_it_calls_is_small_enough() {
    let programs = programs();
    let mut deepest = 0;
    for (name, program) in &programs {
        let stack = stack(program, &functions(program), 0);
        assert!(stack <= STACK, "{name}: {stack} bytes");
        deepest = deepest.max(stack);
    }
    assert!(deepest > STACK / 2 && programs.len() > 10, "{deepest} of {}", programs.len());
}

/// Programs that run so often that a call counts, and whose own part follows no pointer that may be null.
const INLINED: [&str; 4] = ["cpu sched_switch", "health sys_exit", "network tcp_probe", "node sched_switch"];
/// Reads the arguments, calls, and returns.
const A_CALL: usize = 8;

/// Why: `tapio_ebpf::load`.
#[test]
fn a_program_that_follows_pointers_does_so_in_a_function() {
    for (name, program) in programs() {
        let own = functions(&program).get(1).copied().unwrap_or(program.len());
        assert!(own <= A_CALL || INLINED.contains(&name.as_str()), "{name} itself has {own} instructions");
    }
}
