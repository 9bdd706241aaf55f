//! What containers have of memory, CPUs and disks, and what holds them up.

mod cycles;
mod pressure;
