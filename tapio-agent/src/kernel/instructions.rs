//! Puts what is only known on this kernel into an object's instructions.
//!
//! - **Calls of kernel functions** (kfuncs, Documentation/bpf/kfuncs.rst), which the loader does not know. A program calls a
//!   made-up address, [`KFUNC`] plus the index of a field `func NAME`. The compiler takes it for the number of a helper, and
//!   this module makes it a call of the function by its id in the kernel's BTF.
//! - **Loads of fields** where each instruction counts. A program loads from a made-up offset, [`FIELD`] plus the index of the
//!   field, and this module puts the field's offset in its place.

use tapio_common::{ABSENT, FIELD, KFUNC};

/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL` in the source register.
const FUNCTION: u8 = 2 << 4;
/// `BPF_LDX | BPF_MEM | BPF_W`
const LOAD: u8 = 0x61;
/// The furthest that a load reaches.
const MAX_OFFSET: u32 = i16::MAX as u32;

/// Returns an object with its calls and loads replaced, eight-byte aligned. `values` are the ids and offsets, in the order of
/// the fields.
pub(super) fn place(object: &[u8], values: &[u32]) -> Vec<u64> {
    let instruction = |bytes: &[u8]| {
        let mut instruction = [0; 8];
        instruction[..bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(replace(instruction, values))
    };
    object.chunks(8).map(instruction).collect()
}

/// Replaces an instruction: operation, registers, offset and immediate
/// (Documentation/bpf/standardization/instruction-set.rst).
fn replace(instruction: [u8; 8], values: &[u32]) -> [u8; 8] {
    let value = |mark: usize, base| values.get(mark.checked_sub(base)?).copied();
    match instruction {
        [CALL, 0, 0, 0, number @ ..] => match value(u32::from_le_bytes(number) as usize, KFUNC) {
            Some(ABSENT) => zero(0),
            Some(id) => {
                let [a, b, c, d] = id.to_le_bytes();
                [CALL, FUNCTION, 0, 0, a, b, c, d]
            }
            None => instruction,
        },
        [LOAD, registers, low, high, 0, 0, 0, 0] => {
            match value(u16::from_le_bytes([low, high]).into(), FIELD) {
                Some(ABSENT) => zero(registers & 0xf),
                Some(offset @ 0..=MAX_OFFSET) => {
                    let [low, high, ..] = offset.to_le_bytes();
                    [LOAD, registers, low, high, 0, 0, 0, 0]
                }
                // The verifier refuses the mark, which is outside any struct.
                _ => instruction,
            }
        }
        _ => instruction,
    }
}

/// `register = 0`: in place of what the verifier never reaches, since its field is absent.
const fn zero(register: u8) -> [u8; 8] {
    [0xb7, register, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_get_the_offsets_of_their_fields() {
        let load = |mark: usize| {
            let [low, high] = (mark as u16).to_le_bytes();
            [LOAD, 0x63, low, high, 0, 0, 0, 0]
        };
        let object = [load(FIELD), load(FIELD + 1), load(FIELD + 2), load(FIELD + 3), load(12)].concat();
        let placed = place(&object, &[8, 0x8000, ABSENT]);
        let expected = [load(8), load(FIELD + 1), zero(3), load(FIELD + 3), load(12)].concat();
        assert_eq!(bytemuck::cast_slice::<u64, u8>(&placed), expected);
    }

    #[test]
    fn calls_get_the_ids_of_their_functions() {
        let call = |number: usize| [&[CALL, 0, 0, 0][..], &(number as u32).to_le_bytes()].concat();
        let object = [call(KFUNC + 1), call(KFUNC + 2), call(113), call(KFUNC + 3), vec![1, 2]].concat();
        let placed = place(&object, &[7, 0x1_0002, ABSENT]);
        let function = vec![CALL, 0x20, 0, 0, 2, 0, 1, 0];
        let expected = [function, zero(0).to_vec(), call(113), call(KFUNC + 3), vec![1, 2, 0, 0, 0, 0, 0, 0]];
        assert_eq!(bytemuck::cast_slice::<u64, u8>(&placed), expected.concat());
    }
}
