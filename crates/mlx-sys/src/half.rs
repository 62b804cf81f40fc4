//! Half-precision entry points of `shim/half.cpp`, under the names and types
//! that bindgen gives them on Arm.

use crate::mlx_array;

/// IEEE binary16 as raw bits; a type of its own so that it differs from [`bfloat16_t`].
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct float16_t(pub u16);

/// bfloat16 as raw bits.
pub type bfloat16_t = u16;

unsafe extern "C" {
    pub fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> ::std::os::raw::c_int;
    pub fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t;
    pub fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t;
}
