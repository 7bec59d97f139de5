//! One test program; every file beside this one is a topic.

#![allow(non_snake_case)]

mod common;

mod golden;
