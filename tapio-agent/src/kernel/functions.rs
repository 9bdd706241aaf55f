//! Calls of kernel functions (kfuncs, Documentation/bpf/kfuncs.rst), which the loader does not know.
//!
//! A program calls a made-up address, [`KFUNC`] plus the index of a field `func NAME`. The compiler takes it for the number of
//! a helper, and this module makes it a call of the function by its id in the kernel's BTF.

use tapio_common::{ABSENT, KFUNC};

/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_KFUNC_CALL` in the source register.
const FUNCTION: u8 = 2 << 4;
/// `r0 = 0`: in place of a call that the verifier never reaches, since its field is absent.
const ZERO: [u8; 8] = [0xb7, 0, 0, 0, 0, 0, 0, 0];

/// Returns an object with its calls replaced, eight-byte aligned. `values` are the ids, in the order of the fields.
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
    let [CALL, 0, 0, 0, number @ ..] = instruction else { return instruction };
    let field = (u32::from_le_bytes(number) as usize).checked_sub(KFUNC);
    match field.and_then(|field| values.get(field)) {
        Some(&ABSENT) => ZERO,
        Some(id) => {
            let [a, b, c, d] = id.to_le_bytes();
            [CALL, FUNCTION, 0, 0, a, b, c, d]
        }
        None => instruction,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_get_the_ids_of_their_functions() {
        let call = |number: usize| [&[CALL, 0, 0, 0][..], &(number as u32).to_le_bytes()].concat();
        let object = [call(KFUNC + 1), call(KFUNC + 2), call(113), call(KFUNC + 3), vec![1, 2]].concat();
        let placed = place(&object, &[7, 0x1_0002, ABSENT]);
        let function = vec![CALL, 0x20, 0, 0, 2, 0, 1, 0];
        let expected = [function, ZERO.to_vec(), call(113), call(KFUNC + 3), vec![1, 2, 0, 0, 0, 0, 0, 0]];
        assert_eq!(bytemuck::cast_slice::<u64, u8>(&placed), expected.concat());
    }
}
