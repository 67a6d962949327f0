//! Scenarios over real QUIC, simulation, crash, fuzz, benches and tidiness.
