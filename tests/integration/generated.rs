//! What the program generates is committed, and is what it generates.

use std::fs;
use std::process::Command;

use crate::harness::project;

#[test]
fn the_definitions_of_the_objects_are_those_of_the_types() {
    for kind in ["models", "modelreplicas"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_inference-gateway")).args(["crd", kind]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let committed = fs::read_to_string(project().join(format!("crd/{kind}.yaml"))).unwrap();
        let generated = String::from_utf8(output.stdout).unwrap();
        assert!(
            committed == generated,
            "crd/{kind}.yaml is not what `crd {kind}` prints: run `make generate`"
        );
    }
}
