//! The memory, CPU time and disk time of containers, and the waits for them.

mod cycles;
mod pressure;
mod services;
