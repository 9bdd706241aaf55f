//! What containers have of memory, processors and disks, and what holds them up.

mod cycles;
mod pressure;
