//! Dispatch of products with one or several quantized matrices.

#[cfg(target_arch = "x86_64")]
use super::prefill;
use super::{Accuracy, Format, Product, QuantizedRows, gemv};
use crate::gemm::{self, Dense, Lanes, Packed, store};
use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::Isa;

/// Whether [`linear`] is faster than a blocked product.
pub(crate) fn is_direct(isa: Isa, accuracy: Accuracy, format: Format, rows: usize) -> bool {
    format.has_packed_product() && (rows <= gemv::MAX_ROWS || has_prefill(isa, accuracy, format))
}

/// Whether products of many rows are computed in integers.
#[cfg(target_arch = "x86_64")]
fn has_prefill(isa: Isa, accuracy: Accuracy, format: Format) -> bool {
    accuracy == Accuracy::Int8 && prefill::Kernel::choose(isa, format).is_some()
}

/// Not available on this architecture.
#[cfg(not(target_arch = "x86_64"))]
fn has_prefill(_isa: Isa, _accuracy: Accuracy, _format: Format) -> bool {
    false
}

/// Computes `products` for any number of rows of `x`. Consecutive products of the same format share the prepared `x` and
/// one parallel loop.
///
/// # Panics
/// If the lengths do not match.
pub(crate) fn linear(isa: Isa, accuracy: Accuracy, x: &[f32], products: &mut [Product]) {
    for Product { weights, y } in &*products {
        let (rows, columns) = (weights.rows, weights.columns);
        assert!(x.len() * rows == y.len() * columns, "{} numbers for {rows} by {columns}", x.len());
    }
    let layout = |product: &Product| {
        let weights = &product.weights;
        (weights.format, weights.columns, weights.is_sparse())
    };
    for products in products.chunk_by_mut(|a, b| layout(a) == layout(b)) {
        multiply_same_format(isa, accuracy, x, products);
    }
}

/// [`linear`] with at least one product, all in one format and as wide.
fn multiply_same_format(isa: Isa, accuracy: Accuracy, x: &[f32], products: &mut [Product]) {
    let QuantizedRows { format, columns, .. } = products[0].weights;
    if columns == 0 {
        return products.iter_mut().for_each(|product| product.y.fill(0.0));
    }
    let rows = x.len() / columns;
    if rows == 0 {
        return;
    }
    let direct = format.has_packed_product();
    if direct && rows <= gemv::MAX_ROWS {
        return gemv::multiply(isa, accuracy, x, products);
    }
    #[cfg(target_arch = "x86_64")]
    if direct
        && accuracy == Accuracy::Int8
        && let Some(kernel) = prefill::Kernel::choose(isa, format)
    {
        return prefill::multiply(isa, kernel, x, products);
    }
    let x = Dense::new(x, (rows, columns));
    let x = Packed::new(isa, accuracy.precision(), Lanes::rows(&x));
    for Product { weights, y } in products {
        let y = Disjoint::new(y);
        gemm::multiply(isa, &[(&x, Lanes::rows(weights))], |tile| store(isa, tile, None, &y, weights.rows));
    }
}

/// How [`linear`] computes a product with `rows` rows of activations, for reports.
pub(crate) fn describe(isa: Isa, accuracy: Accuracy, format: Format, rows: usize) -> String {
    if !is_direct(isa, accuracy, format, rows) {
        return format!("{} unpacked", gemm::describe(isa, accuracy.precision()));
    }
    let level = match accuracy {
        Accuracy::Int8 if isa == Isa::Avx512 => Isa::Avx2,
        Accuracy::Int8 => isa.min(Isa::Avx512Vnni),
        Accuracy::Bf16 if format.bits() == 4 && isa >= Isa::Avx512Bf16 => isa,
        Accuracy::Bf16 | Accuracy::F32 => isa.min(Isa::Avx512),
    };
    format!("{} packed", level.name())
}
