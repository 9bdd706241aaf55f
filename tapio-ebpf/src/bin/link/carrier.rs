//! The event of a device that has lost its carrier.

use tapio_common::{
    Comm, CooldownKey,
    link::{self, CarrierLost, kind, program},
};
use tapio_ebpf::{Run, now_ns};

use crate::{SETTINGS, constant, device::Device};

/// Emits an event, once for all queues of the device.
#[inline(always)]
pub(crate) fn emit(device: Device) {
    let Some(run) = Run::begin(program::QDISC_RESET) else { return };
    let namespace = device.namespace();
    let losses: u32 = device.load(link::LOSSES);
    let now = now_ns();
    let key = CooldownKey {
        cgroup_id: namespace,
        comm: Comm::default(),
        subject: bytemuck::cast([losses, 0, 0, 0]),
        detail: device.load(link::INDEX),
        kind: kind::CARRIER_LOST,
    };
    run.emit_unless_cooling_down(&key, constant(&SETTINGS.cooldown_ns), now, |event: &mut CarrierLost, _| {
        event.header.time_ns = now;
        event.kind = kind::CARRIER_LOST;
        event.losses = losses;
        device.describe(namespace, &mut event.device);
    });
}
