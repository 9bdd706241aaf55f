//! The parser against another one, on messages that are right, nearly right, and rubbish.

extern crate std;

use std::{vec, vec::Vec};

use super::*;

const SEED: u64 = 0x5eed;

/// A message with one question, and what follows it.
fn message(name: &[u8], rest: &[u8]) -> Vec<u8> {
    let header = [0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1];
    [&header, name, &[0, 28, 0, 1], rest].concat()
}

fn read(bytes: &[u8]) -> Option<Question> {
    let mut message = Message::zeroed();
    let len = bytes.len().min(MESSAGE_BYTES);
    // What an earlier message left.
    message.bytes().fill(0xa5);
    message.bytes()[..len].copy_from_slice(&bytes[..len]);
    message.question(len, message.name_len()?, SEED)
}

/// The same by the letter of RFC 1035: the length of the name, and its type.
fn reference(bytes: &[u8]) -> Option<(usize, u16)> {
    let bytes = &bytes[..bytes.len().min(MESSAGE_BYTES)];
    if bytes.len() < HEADER_BYTES || bytes[2] & 0x78 != 0 || bytes[4..6] != [0, 1] {
        return None;
    }
    let mut rest = &bytes[HEADER_BYTES..];
    let mut len = 0;
    loop {
        let (&label, after) = rest.split_first()?;
        len += 1 + usize::from(label);
        if label > 63 || len > 255 {
            return None;
        }
        rest = after.get(usize::from(label)..)?;
        if label == 0 {
            let kind = rest.get(..4)?;
            return Some((len, u16::from_be_bytes([kind[0], kind[1]])));
        }
    }
}

#[test]
fn a_question_is_read_whatever_follows_it() {
    let name = b"\x05redis\x04prod\x03svc\x07cluster\x05local\0";
    let option = [0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0];
    let question = read(&message(name, &option)).unwrap();
    assert_eq!((question.kind, question.name_len, question.is_answer), (28, name.len() as u32, false));
    assert_eq!(question.id, u16::from_ne_bytes([0x12, 0x34]));
    assert_eq!(question, read(&message(name, &[])).unwrap());
    // Without case.
    assert_eq!(
        question,
        read(&message(b"\x05REDIS\x04prod\x03SvC\x07cluster\x05LOCAL\0", &[0xff; 600])).unwrap()
    );
    let other = read(&message(b"\x05redis\x04prod\x03svc\x07cluster\x05locam\0", &[])).unwrap();
    assert_ne!(question.name, other.name);
    assert_eq!(question.stem, other.stem);
    let mut answer = message(name, &[]);
    answer[2..4].copy_from_slice(&[0x87, 0x83]);
    let answer = read(&answer).unwrap();
    assert!(answer.is_answer);
    assert_eq!((answer.code, answer.name), (code::NXDOMAIN, question.name));
    assert_eq!(read(&message(b"\0", &[])).unwrap().name_len, 1);
}

#[test]
fn the_longest_names_are_read_and_longer_ones_are_not() {
    let labels = |len: usize| {
        let mut name = vec![];
        while name.len() + 1 < len {
            let label = (len - 2 - name.len()).min(63);
            name.push(label as u8);
            name.extend(vec![b'a'; label]);
        }
        name.push(0);
        name
    };
    assert_eq!(read(&message(&labels(255), &[])).unwrap().name_len, 255);
    assert!(read(&message(&labels(256), &[])).is_none());
    let single: Vec<u8> = [b"\x01a".repeat(127), vec![0]].concat();
    assert_eq!(read(&message(&single, &[])).unwrap().name_len, 255);
    assert!(read(&message(&[b"\x01a".repeat(128), vec![0]].concat(), &[])).is_none());
    // A pointer, in place of a label.
    assert!(read(&message(b"\x03www\xc0\x0c", &[])).is_none());
}

/// `FUZZ_INPUTS` sets how many inputs there are.
#[test]
fn any_input_is_read_as_by_the_reference() {
    let inputs = std::env::var("FUZZ_INPUTS").map_or(100_000, |inputs| inputs.parse().unwrap());
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut questions, mut others) = (0, 0);
    for _ in 0..inputs {
        let mut name = vec![];
        for _ in 0..random(8) {
            let label = if random(8) == 0 { random(256) } else { random(20) };
            name.push(label as u8);
            name.extend((0..label).map(|_| random(256) as u8));
        }
        name.push(0);
        let mut bytes = message(&name, &[0; 11]);
        for _ in 0..random(4) {
            let at = random(bytes.len() as u64) as usize;
            bytes[at] = random(256) as u8;
        }
        bytes.truncate(random(bytes.len() as u64 * 2 + 1) as usize);
        let found = read(&bytes);
        let found = found.map(|question| (question.name_len as usize, question.kind));
        assert_eq!(found, reference(&bytes), "{bytes:?}");
        if found.is_some() { questions += 1 } else { others += 1 }
    }
    assert!(questions > inputs / 10 && others > inputs / 10, "{questions} questions, {others} others");
}
