//! The messages. A tag keeps its meaning for ever.

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Record {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    pub(super) time_unix_ns: u64,
    #[prost(string, tag = "3")]
    pub(super) kind: String,
    #[prost(uint32, tag = "4")]
    pub(super) severity: u32,
    #[prost(uint32, tag = "5")]
    pub(super) outcome: u32,
    #[prost(string, tag = "6")]
    pub(super) message: String,
    #[prost(string, optional, tag = "7")]
    pub(super) cluster: Option<String>,
    #[prost(string, tag = "8")]
    pub(super) node: String,
    #[prost(message, optional, tag = "9")]
    pub(super) workload: Option<WorkloadRecord>,
    #[prost(message, optional, tag = "10")]
    pub(super) process: Option<ProcessRecord>,
    #[prost(message, optional, tag = "11")]
    pub(super) actor: Option<ActorRecord>,
    #[prost(message, optional, tag = "12")]
    pub(super) peer: Option<PeerRecord>,
    #[prost(message, optional, tag = "13")]
    pub(super) data: Option<DataRecord>,
    #[prost(message, optional, tag = "14")]
    pub(super) baseline: Option<NormalRecord>,
    #[prost(uint64, tag = "15")]
    pub(super) count: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WorkloadRecord {
    #[prost(string, optional, tag = "1")]
    pub(super) namespace: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) pod: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) pod_uid: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) container: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(super) container_id: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) runtime: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(super) image: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub(super) owner_kind: Option<String>,
    #[prost(string, optional, tag = "9")]
    pub(super) owner: Option<String>,
    #[prost(string, optional, tag = "10")]
    pub(super) unit: Option<String>,
    #[prost(message, repeated, tag = "11")]
    pub(super) labels: Vec<LabelRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LabelRecord {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProcessRecord {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
    #[prost(string, tag = "2")]
    pub(super) comm: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ActorRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) process: Option<ProcessRecord>,
    #[prost(message, optional, tag = "2")]
    pub(super) workload: Option<WorkloadRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PeerRecord {
    #[prost(string, tag = "1")]
    pub(super) address: String,
    #[prost(uint32, tag = "2")]
    pub(super) port: u32,
    #[prost(string, optional, tag = "3")]
    pub(super) namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) service: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(super) pod: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) node: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(super) owner_kind: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub(super) owner: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NormalRecord {
    #[prost(uint64, tag = "1")]
    pub(super) mean: u64,
    #[prost(uint64, tag = "2")]
    pub(super) deviation: u64,
    #[prost(string, tag = "3")]
    pub(super) unit: String,
    #[prost(uint32, tag = "4")]
    pub(super) samples: u32,
    #[prost(double, optional, tag = "5")]
    pub(super) ratio: Option<f64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DataRecord {
    #[prost(message, repeated, tag = "1")]
    pub(super) fields: Vec<FieldRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FieldRecord {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(oneof = "ValueRecord", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub(super) value: Option<ValueRecord>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ValueRecord {
    #[prost(uint64, tag = "2")]
    Number(u64),
    #[prost(sint64, tag = "3")]
    Signed(i64),
    #[prost(double, tag = "4")]
    Real(f64),
    #[prost(string, tag = "5")]
    Text(String),
    #[prost(string, tag = "6")]
    Address(String),
    #[prost(message, tag = "7")]
    List(ListRecord),
    #[prost(message, tag = "8")]
    Workload(Box<WorkloadRecord>),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListRecord {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<DataRecord>,
}
