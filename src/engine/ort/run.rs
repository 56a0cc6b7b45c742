//! One call of ONNX Runtime's `Run` with values that we own, inputs and outputs alike.
//!
//! The safe API takes outputs only from its own allocator and copies borrowed inputs when they are bound; the cache
//! lies in slabs of ours and is written in place, so `Run` is called directly.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use ort::AsPointer;
use ort::session::Session;
use ort::sys::OrtValue;
use ort::value::TensorRefMut;

use super::contract::IntegerKind;
use crate::engine::backend::BackendError;
use crate::engine::request::TokenId;

/// The names and values of one run, in the order in which they were added.
#[derive(Default)]
pub(super) struct Call {
    input_names: Vec<*const c_char>,
    inputs: Vec<*const OrtValue>,
    output_names: Vec<*const c_char>,
    outputs: Vec<*mut OrtValue>,
}

impl Call {
    /// The value has to live, and its memory must not be used otherwise, until `run` has returned.
    pub(super) fn input(&mut self, name: &CStr, value: *const OrtValue) {
        self.input_names.push(name.as_ptr());
        self.inputs.push(value);
    }

    /// As [`Call::input`]; the value's memory is written.
    pub(super) fn output(&mut self, name: &CStr, value: *const OrtValue) {
        self.output_names.push(name.as_ptr());
        self.outputs.push(value.cast_mut());
    }

    /// Runs the graph.
    ///
    /// # Safety
    /// Every name and value that was added is alive, values are used by nobody else during the call, and each buffer
    /// is as large as its value's shape says.
    #[expect(unsafe_code, reason = "the safe API cannot bind a slice of our own memory as an output")]
    pub(super) unsafe fn run(&mut self, session: &Session) -> Result<(), BackendError> {
        let api = ort::api();
        // SAFETY: the caller's promise; the session is borrowed for the call; a status is released exactly once.
        unsafe {
            let status = (api.Run)(
                session.ptr().cast_mut(),
                ptr::null(),
                self.input_names.as_ptr(),
                self.inputs.as_ptr(),
                self.inputs.len(),
                self.output_names.as_ptr(),
                self.output_names.len(),
                self.outputs.as_mut_ptr(),
            );
            if status.0.is_null() {
                return Ok(());
            }
            let message = CStr::from_ptr((api.GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            (api.ReleaseStatus)(status.0);
            Err(BackendError(message))
        }
    }
}

/// A buffer of token ids, positions, mask bits or indices, in the graph's integer type.
pub(super) struct Integers {
    kind: IntegerKind,
    wide: Vec<i64>,
    narrow: Vec<i32>,
}

/// A view of [`Integers`] as a tensor.
pub(super) enum IntegerTensor<'a> {
    Wide(TensorRefMut<'a, i64>),
    Narrow(TensorRefMut<'a, i32>),
}

impl Integers {
    pub(super) fn new(kind: IntegerKind) -> Self {
        Self { kind, wide: Vec::new(), narrow: Vec::new() }
    }

    /// Replaces the content by `[rows, width]` numbers, made by `number(row, column)`.
    pub(super) fn fill(&mut self, rows: usize, width: usize, number: impl Fn(usize, usize) -> i64) {
        let all = (0..rows).flat_map(|row| (0..width).map(move |column| (row, column)));
        match self.kind {
            IntegerKind::Int64 => {
                self.wide.clear();
                self.wide.extend(all.map(|(row, column)| number(row, column)));
            }
            IntegerKind::Int32 => {
                self.narrow.clear();
                self.narrow.extend(all.map(|(row, column)| number(row, column) as i32));
            }
        }
    }

    /// The content as a tensor of the given shape.
    pub(super) fn tensor<const N: usize>(
        &mut self,
        shape: [usize; N],
    ) -> Result<IntegerTensor<'_>, BackendError> {
        Ok(match self.kind {
            IntegerKind::Int64 => IntegerTensor::Wide(
                TensorRefMut::from_array_view_mut((shape, &mut self.wide[..])).map_err(failed)?,
            ),
            IntegerKind::Int32 => IntegerTensor::Narrow(
                TensorRefMut::from_array_view_mut((shape, &mut self.narrow[..])).map_err(failed)?,
            ),
        })
    }
}

impl IntegerTensor<'_> {
    pub(super) fn as_ptr(&self) -> *const OrtValue {
        match self {
            Self::Wide(tensor) => tensor.ptr(),
            Self::Narrow(tensor) => tensor.ptr(),
        }
    }
}

/// A name without NUL bytes, as ONNX names are.
pub(super) fn c_name(name: &str) -> CString {
    CString::new(name).expect("names of a loaded graph hold no NUL byte")
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
pub(super) fn failed(error: ort::Error) -> BackendError {
    BackendError(error.to_string())
}

/// Widens a token id for the graph.
pub(super) fn id(token: TokenId) -> i64 {
    i64::from(token)
}
