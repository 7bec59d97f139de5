//! One test program; every file beside this one is a topic.

#![allow(non_snake_case)]

mod common;

mod adapter;
mod adapter_check;
mod api;
#[cfg(feature = "safetensors")]
mod average;
mod batches;
#[cfg(feature = "safetensors")]
mod checkpoint;
mod concept;
mod conformance;
mod debug;
mod endurance;
#[cfg(feature = "files")]
mod engine_files;
mod errors;
#[cfg(feature = "facts")]
mod fact_layouts;
#[cfg(feature = "facts")]
mod fact_metrics;
#[cfg(feature = "facts")]
mod fact_names;
#[cfg(feature = "facts")]
mod fact_probes;
#[cfg(feature = "facts")]
mod facts;
mod family;
#[cfg(feature = "safetensors")]
mod files;
mod forgetting;
#[cfg(feature = "llm")]
mod gguf;
mod golden;
mod guides;
#[cfg(feature = "half")]
mod half_weights;
mod identities;
mod interface;
#[cfg(feature = "nalgebra")]
mod interop;
#[cfg(feature = "facts")]
mod known_facts;
mod layers;
#[cfg(feature = "llm")]
mod llm_chat;
#[cfg(feature = "llm")]
mod llm_editing;
#[cfg(feature = "llm")]
mod llm_families;
#[cfg(feature = "llm")]
mod llm_fine_tuning;
#[cfg(feature = "llm")]
mod llm_gguf;
#[cfg(feature = "llm")]
mod llm_gguf_families;
#[cfg(feature = "llm")]
mod llm_models;
#[cfg(feature = "llm")]
mod llm_pieces;
#[cfg(feature = "llm")]
mod llm_sites;
#[cfg(all(feature = "llm", feature = "facts", feature = "session"))]
mod llm_surroundings;
#[cfg(feature = "llm")]
mod llm_targets;
#[cfg(feature = "llm")]
mod llm_together;
#[cfg(feature = "llm")]
mod llm_tokenizers;
#[cfg(feature = "llm")]
mod llm_variants;
#[cfg(feature = "safetensors")]
mod lora;
mod messages;
mod names;
#[cfg(feature = "npz")]
mod npy;
#[cfg(feature = "npz")]
mod npz;
#[cfg(all(feature = "safetensors", feature = "session"))]
mod old_sessions;
mod oracle;
mod precision;
mod projector;
mod proposals;
#[cfg(all(feature = "npz", feature = "safetensors"))]
mod python;
mod refresh;
mod regmean;
mod restraint;
mod ridge;
#[cfg(feature = "session")]
mod session;
#[cfg(feature = "serde")]
mod settings;
mod sizes;
mod spectrum;
mod stream_errors;
mod weight;
mod whole_start;
