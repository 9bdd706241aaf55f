//! Offsets of fields in this kernel's structs, from its BTF (`Documentation/bpf/btf.rst`).
//!
//! The loader has a BTF reader, but keeps struct members private. This one only holds an index of 4 bytes per type, while
//! the agent starts.

use std::collections::HashMap;

use super::rights;

const MAGIC: u16 = 0xeb9f;
const KIND_POINTER: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNCTION: u32 = 12;
const KIND_FUNCTION_PROTO: u32 = 13;
/// Prefix of the typedef of a tracepoint's functions; the tracepoint's name follows. include/trace/bpf_probe.h.
const TRACEPOINT: &[u8] = b"btf_trace_";
/// Bytes of each argument, as programs receive them.
const ARGUMENT_BYTES: u32 = 8;
/// Kinds that wrap another type: typedef, volatile, const, restrict, type tag.
const WRAPPERS: [u32; 5] = [KIND_TYPEDEF, 9, 10, 11, 18];

/// The types of a kernel.
#[derive(Debug)]
pub struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Byte offset of each type. A type's id is its index plus one.
    starts: Vec<u32>,
    structs: HashMap<&'a [u8], u32>,
}

/// The reason why a field has no offset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// The bytes are not BTF of a known version.
    #[error("the kernel's type information (BTF) cannot be read")]
    Malformed,
    /// The kernel has no such struct.
    #[error("this kernel has no struct {0}")]
    Struct(String),
    /// The struct has no such member.
    #[error("this kernel has no field {0}")]
    Field(String),
    /// The kernel has the field, but lets no program load it.
    #[error("this kernel does not let programs read {0}")]
    Unreadable(String),
    /// The kernel has no such tracepoint, or no argument of it has the type.
    #[error("this kernel has no tracepoint with the argument {0}")]
    Argument(String),
    /// The kernel has no such function, or does not let programs call it.
    #[error("this kernel gives programs no function {0}")]
    Function(String),
}

impl<'a> Types<'a> {
    /// Indexes `/sys/kernel/btf/vmlinux`, little endian as on all supported machines.
    ///
    /// # Errors
    /// [`Absent::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Absent> {
        if bytes.get(..2) != Some(&MAGIC.to_le_bytes()) {
            return Err(Absent::Malformed);
        }
        let header = |at: usize| word(bytes, at).map(|w| w as usize).ok_or(Absent::Malformed);
        let body = bytes.get(header(4)?..).ok_or(Absent::Malformed)?;
        let section = |at: usize| {
            let (start, len) = (header(at)?, header(at + 4)?);
            start.checked_add(len).and_then(|end| body.get(start..end)).ok_or(Absent::Malformed)
        };
        let mut this =
            Self { types: section(8)?, strings: section(16)?, starts: Vec::new(), structs: HashMap::new() };
        let mut at = 0;
        while at < this.types.len() {
            let info = word(this.types, at + 4).ok_or(Absent::Malformed)?;
            this.starts.push(at as u32);
            if kind(info) == KIND_STRUCT {
                let name =
                    word(this.types, at).and_then(|name| this.string(name)).ok_or(Absent::Malformed)?;
                this.structs.entry(name).or_insert(this.starts.len() as u32);
            }
            // A kind newer than this reader: the types before it are known, those after it are not.
            let Some(extra) = extra(info) else { break };
            at += 12 + extra;
        }
        Ok(this)
    }

    /// Returns the byte offset of `struct.member.member`, through anonymous structs and unions. `member[3]` and
    /// `member[CONSTANT]` are array elements; the latter uses the value of an enum's constant as the index.
    ///
    /// `struct.member + struct.member` is that of a member of a struct that another struct has in a member, as bytes.
    ///
    /// `tracepoint(type)` is the byte offset of a tracepoint's first argument of this type, or of a pointer to this
    /// struct. `tracepoint(type[1])` is that of the second. Kernels add arguments, and programs have a branch for each
    /// signature.
    ///
    /// `struct NAME` is the id of a struct, and `func NAME` that of a kernel function that programs call. What ends in ` since
    /// 6.11` is absent from older kernels, which have it, but not for all programs.
    ///
    /// # Errors
    /// The struct, field, argument or function that this kernel does not have.
    pub fn offset(&self, path: &str) -> Result<u32, Absent> {
        let (path, since) = path.split_once(" since ").unwrap_or((path, "0.0"));
        let is_there = rights::version() >= rights::parse_version(since);
        if let Some(name) = path.strip_prefix("struct ") {
            return self.structs.get(name.as_bytes()).copied().ok_or_else(|| Absent::Struct(name.to_owned()));
        }
        if let Some(name) = path.strip_prefix("func ") {
            let id = if is_there { self.function(name.as_bytes()) } else { None };
            return id.ok_or_else(|| Absent::Function(name.to_owned()));
        }
        if let Some((tracepoint, argument)) = path.strip_suffix(')').and_then(|path| path.split_once('(')) {
            return self.argument(tracepoint, argument).ok_or_else(|| Absent::Argument(path.to_owned()));
        }
        if !is_there {
            return Err(Absent::Unreadable(path.to_owned()));
        }
        path.split(" + ").map(|path| self.field(path)).sum()
    }

    /// Byte offset of `struct.member.member`.
    fn field(&self, path: &str) -> Result<u32, Absent> {
        let mut parts = path.split('.');
        let name = parts.next().unwrap_or_default();
        let mut id = *self.structs.get(name.as_bytes()).ok_or_else(|| Absent::Struct(name.to_owned()))?;
        let mut bits = 0;
        for part in parts {
            let absent = || Absent::Field(path.to_owned());
            let (name, index) =
                part.split_once('[').map_or((part, None), |(name, index)| (name, Some(index)));
            let (at, member) = self.member(id, name.as_bytes(), 0).ok_or_else(absent)?;
            bits += at;
            id = member;
            if let Some(index) = index {
                let (at, element) =
                    index.strip_suffix(']').and_then(|index| self.element(id, index)).ok_or_else(absent)?;
                bits += at;
                id = element;
            }
        }
        Ok(bits / 8)
    }

    /// Id of a function.
    fn function(&self, name: &[u8]) -> Option<u32> {
        let at = self.starts.iter().position(|start| {
            let start = *start as usize;
            word(self.types, start + 4).is_some_and(|info| kind(info) == KIND_FUNCTION)
                && word(self.types, start).and_then(|name| self.string(name)) == Some(name)
        })?;
        u32::try_from(at + 1).ok()
    }

    /// Byte offset of the argument of a type: `name`, or `name[1]` for the second of that type.
    fn argument(&self, tracepoint: &str, argument: &str) -> Option<u32> {
        let (name, nth) = match argument.split_once('[') {
            Some((name, nth)) => (name, nth.strip_suffix(']')?.parse().ok()?),
            None => (argument, 0),
        };
        let name_of = |start: usize| self.string(word(self.types, start)?);
        let functions = self.starts.iter().map(|start| *start as usize).find(|start| {
            let is_typedef = word(self.types, start + 4).is_some_and(|info| kind(info) == KIND_TYPEDEF);
            let name = if is_typedef { name_of(*start) } else { None };
            name.and_then(|name| name.strip_prefix(TRACEPOINT)) == Some(tracepoint.as_bytes())
        })?;
        // A typedef of a pointer to functions.
        let pointer = self.unwrap(word(self.types, functions + 8)?)?;
        let proto = self.unwrap(word(self.types, pointer + 8)?)?;
        let info = word(self.types, proto + 4)?;
        if kind(info) != KIND_FUNCTION_PROTO {
            return None;
        }
        // Programs do not receive the first argument.
        let arguments = (1..vlen(info)).map(|at| word(self.types, proto + 16 + at as usize * 8));
        let is_of_type = |id: &Option<u32>| id.is_some_and(|id| self.is_named(id, name.as_bytes()));
        let (at, _) = arguments.enumerate().filter(|(_, id)| is_of_type(id)).nth(nth)?;
        u32::try_from(at).ok()?.checked_mul(ARGUMENT_BYTES)
    }

    /// Whether this type has the name, or a type that it is a typedef of, or the struct that it points to.
    fn is_named(&self, mut id: u32, name: &[u8]) -> bool {
        for _ in 0..32 {
            let Some(start) = id.checked_sub(1).and_then(|at| self.starts.get(at as usize)) else {
                return false;
            };
            let start = *start as usize;
            let Some(info) = word(self.types, start + 4) else { return false };
            if word(self.types, start).and_then(|at| self.string(at)) == Some(name) {
                return true;
            }
            if !WRAPPERS.contains(&kind(info)) && kind(info) != KIND_POINTER {
                return false;
            }
            id = word(self.types, start + 8).unwrap_or_default();
        }
        false
    }

    /// Offset in bits, and type, of an array element.
    fn element(&self, array: u32, index: &str) -> Option<(u32, u32)> {
        let start = self.unwrap(array)?;
        if kind(word(self.types, start + 4)?) != KIND_ARRAY {
            return None;
        }
        let (element, len) = (word(self.types, start + 12)?, word(self.types, start + 20)?);
        let index = index.parse().ok().or_else(|| self.enumerator(index.as_bytes()))?;
        (index < len).then_some((self.size(element)?.checked_mul(index)?.checked_mul(8)?, element))
    }

    /// Size in bytes of an array's element type.
    fn size(&self, id: u32) -> Option<u32> {
        let start = self.unwrap(id)?;
        match kind(word(self.types, start + 4)?) {
            KIND_POINTER => Some(8),
            KIND_ARRAY => None,
            _ => word(self.types, start + 8),
        }
    }

    /// The value of a constant in any enum.
    fn enumerator(&self, name: &[u8]) -> Option<u32> {
        self.starts.iter().find_map(|start| {
            let start = *start as usize;
            let info = word(self.types, start + 4)?;
            let constants = if kind(info) == KIND_ENUM { vlen(info) as usize } else { 0 };
            (0..constants).map(|i| start + 12 + i * 8).find_map(|at| {
                (self.string(word(self.types, at)?)? == name).then(|| word(self.types, at + 4))?
            })
        })
    }

    /// Offset in bits, and type, of a member.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let start = self.unwrap(id)?;
        let info = word(self.types, start + 4)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) || depth > 16 {
            return None;
        }
        (0..vlen(info)).find_map(|i| {
            let at = start + 12 + i as usize * 12;
            let member = word(self.types, at + 4)?;
            // If the flag is set, the upper byte is the size of a bit field.
            let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
            let bits = word(self.types, at + 8)? & mask;
            match self.string(word(self.types, at)?)? {
                found if found == name => Some((bits, member)),
                b"" => self.member(member, name, depth + 1).map(|(inner, id)| (bits + inner, id)),
                _ => None,
            }
        })
    }

    /// Byte offset of the type behind typedefs and qualifiers.
    fn unwrap(&self, mut id: u32) -> Option<usize> {
        for _ in 0..32 {
            let start = *self.starts.get(id.checked_sub(1)? as usize)? as usize;
            if !WRAPPERS.contains(&kind(word(self.types, start + 4)?)) {
                return Some(start);
            }
            id = word(self.types, start + 8)?;
        }
        None
    }

    fn string(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(at as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_le_bytes)
}

const fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

const fn vlen(info: u32) -> u32 {
    info & 0xffff
}

/// Bytes that follow the three words of each type. `None` for a kind newer than this reader, which ends reading.
fn extra(info: u32) -> Option<usize> {
    let each = vlen(info) as usize;
    Some(match kind(info) {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | 15 | 19 => each * 12,
        6 | 13 => each * 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_the_running_kernel() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            println!("SKIP offsets_of_the_running_kernel: this kernel has no BTF");
            return;
        };
        let types = Types::parse(&bytes).unwrap();
        // include/net/sock.h: the addresses are the first eight bytes of every socket.
        assert_eq!(types.offset("sock.__sk_common.skc_daddr"), Ok(0));
        assert_eq!(types.offset("sock.__sk_common.skc_rcv_saddr"), Ok(4));
        assert!(types.offset("tcp_sock.rack.rtt_us").unwrap() > 500);
        let control_block = types.offset("sk_buff.cb").unwrap();
        assert_eq!(types.offset("sk_buff.cb + tcp_skb_cb.end_seq"), Ok(control_block + 4));
        let upid = |path| types.offset(path).unwrap();
        assert_eq!(upid("task_struct.comm[5]"), upid("task_struct.comm") + 5);
        // include/linux/pid.h: PIDTYPE_TGID is 1, and an hlist_head a pointer.
        assert_eq!(upid("pid.tasks[PIDTYPE_TGID]"), upid("pid.tasks") + 8);
        for wrong in ["task_struct.comm[16]", "task_struct.comm[x]", "task_struct.pid[0]", "pid.tasks[1"] {
            assert_eq!(types.offset(wrong), Err(Absent::Field(wrong.into())), "{wrong}");
        }
        // include/trace/events/sched.h: `(bool preempt, struct task_struct *prev, struct task_struct *next, ...)`.
        assert_eq!(types.offset("sched_switch(bool)"), Ok(0));
        assert_eq!(types.offset("sched_switch(_Bool)"), Ok(0), "what the typedef stands for");
        assert_eq!(types.offset("sched_switch(task_struct)"), Ok(8));
        assert_eq!(types.offset("sched_switch(task_struct[1])"), Ok(16));
        for wrong in [
            "sched_switch(task_struct[2])",
            "sched_switch(sock)",
            "no_such(bool)",
            "sched_switch(task_struct[x])",
        ] {
            assert_eq!(types.offset(wrong), Err(Absent::Argument(wrong.into())), "{wrong}");
        }
        assert_eq!(types.offset("task_struct.pid since 5.0"), types.offset("task_struct.pid"));
        assert_eq!(
            types.offset("task_struct.pid since 99.0"),
            Err(Absent::Unreadable("task_struct.pid".into()))
        );
        assert_eq!(types.offset("no_such.x"), Err(Absent::Struct("no_such".into())));
        assert_eq!(types.offset("sock.no_such"), Err(Absent::Field("sock.no_such".into())));
        for end in (0..bytes.len()).step_by(97_531) {
            // Truncated BTF is refused or lacks types. It never causes a panic.
            let _ = Types::parse(&bytes[..end]).map(|types| types.offset("tcp_sock.srtt_us"));
        }
    }

    #[test]
    fn rubbish_is_refused() {
        assert_eq!(Types::parse(b"").unwrap_err(), Absent::Malformed);
        assert_eq!(Types::parse(&[0x9f, 0xeb, 1, 0, 255, 255, 255, 255]).unwrap_err(), Absent::Malformed);
    }
}
