//! Which factors can be moved between a layer and the linear layers that read its outputs, with no effect on what they
//! compute together.

use mlx_rs::module::{FlattenedModuleParamMut, ModuleParameters};
use mlx_rs::{Array, Dtype};

use super::RmsNorm;
use super::quantized::is_float;
use crate::{Error, Result, kernels};

/// Channels that nothing but linear layers reads: dividing one by a factor at its producer, and multiplying the weights
/// that read it by the same factor, changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    /// Where the channels come from.
    pub producer: Producer,
    /// Key paths of all linear layers that read them.
    pub consumers: Vec<String>,
}

/// A layer whose outputs can be scaled.
#[derive(Debug, Clone, PartialEq)]
pub enum Producer {
    /// A norm: channel `j` is a multiple of `weight[j] + offset`.
    Norm {
        /// Key path.
        path: String,
        /// Added to the weight.
        offset: f32,
    },
    /// A linear layer: channel `j` is linear in its output `rows[j]`.
    Linear {
        /// Key path.
        path: String,
        /// Output that each channel depends on; several may depend on the same.
        rows: Vec<usize>,
    },
}

/// How channels flow through a module.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Key paths of the linear layers that read its input; nothing else does.
    pub readers: Vec<String>,
    /// Channels within the module.
    pub scalings: Vec<Scaling>,
}

impl Flow {
    /// Prepends `path` to all key paths.
    #[must_use]
    pub fn prefixed(self, path: &str) -> Self {
        Self {
            readers: self.readers.iter().map(|reader| format!("{path}.{reader}")).collect(),
            scalings: self.scalings.into_iter().map(|scaling| scaling.prefixed(path)).collect(),
        }
    }

    /// All channels if the input of the module is the output of `norm`, which is at `path`.
    #[must_use]
    pub fn behind(self, path: &str, norm: &RmsNorm) -> Vec<Scaling> {
        let producer = Producer::Norm { path: path.to_owned(), offset: norm.rms.offset };
        let mut scalings = vec![Scaling { producer, consumers: self.readers }];
        scalings.extend(self.scalings);
        scalings
    }
}

impl Scaling {
    /// Channels between two linear layers.
    #[must_use]
    pub fn between(producer: &str, rows: Vec<usize>, consumer: &str) -> Self {
        let producer = Producer::Linear { path: producer.to_owned(), rows };
        Self { producer, consumers: vec![consumer.to_owned()] }
    }

    /// Prepends `path` to all key paths.
    #[must_use]
    pub fn prefixed(mut self, path: &str) -> Self {
        let (Producer::Norm { path: producer, .. } | Producer::Linear { path: producer, .. }) =
            &mut self.producer;
        for name in self.consumers.iter_mut().chain([producer]) {
            *name = format!("{path}.{name}");
        }
        self
    }

    /// Replaces the values of channels that depend on the same output by their mean.
    #[must_use]
    pub fn shared(&self, values: &[f32]) -> Vec<f32> {
        let Producer::Linear { rows, .. } = &self.producer else { return values.to_vec() };
        let outputs = rows.iter().max().map_or(0, |last| last + 1);
        let (mut sums, mut counts) = (vec![0.0; outputs], vec![0.0_f32; outputs]);
        for (&row, value) in rows.iter().zip(values) {
            sums[row] += value;
            counts[row] += 1.0;
        }
        rows.iter().map(|&row| sums[row] / counts[row]).collect()
    }

    /// Replaces the values of channels that depend on the same output by their maximum.
    #[must_use]
    pub fn shared_maxima(&self, values: &[f32]) -> Vec<f32> {
        let Producer::Linear { rows, .. } = &self.producer else { return values.to_vec() };
        let mut maxima = vec![f32::NEG_INFINITY; rows.iter().max().map_or(0, |last| last + 1)];
        for (&row, &value) in rows.iter().zip(values) {
            maxima[row] = maxima[row].max(value);
        }
        rows.iter().map(|&row| maxima[row]).collect()
    }

    /// Divides channel `j` by `scales[j]` and multiplies the weights that read it by the same; channels of one output
    /// need the same scale. Returns the factor of each weight: a norm in half precision is rounded, and they make up
    /// for it.
    ///
    /// # Errors
    /// A layer that `model` does not have, or not in floating point; errors from MLX.
    pub fn fold<M: ModuleParameters + ?Sized>(&self, model: &mut M, scales: &[f32]) -> Result<Vec<f32>> {
        let mut parameters = model.parameters_mut().flatten();
        let factors = match &self.producer {
            Producer::Norm { path, offset } => {
                divide_norm(find(&mut parameters, &format!("{path}.weight"))?, *offset, scales)?
            }
            Producer::Linear { path, rows } => {
                divide_rows(find(&mut parameters, &format!("{path}.weight"))?, rows, scales)?;
                if let Some(bias) = parameters.get_mut(format!("{path}.bias").as_str()) {
                    divide_rows(bias, rows, scales)?;
                }
                scales.to_vec()
            }
        };
        let columns = Array::from_slice(&factors, &[1, factors.len() as i32]);
        for consumer in &self.consumers {
            let weight = find(&mut parameters, &format!("{consumer}.weight"))?;
            let scaled = weight.as_dtype(Dtype::Float32)?.multiply(&columns)?.as_dtype(weight.dtype())?;
            kernels::eval([&scaled])?;
            *weight = scaled;
        }
        Ok(factors)
    }
}

fn find<'a>(parameters: &'a mut FlattenedModuleParamMut, name: &str) -> Result<&'a mut Array> {
    match parameters.get_mut(name) {
        Some(parameter) if is_float(parameter.dtype()) => Ok(parameter),
        Some(_) => Err(Error::Config(format!("{name} is quantized: it cannot be scaled"))),
        None => Err(Error::Config(format!("the model has no {name}"))),
    }
}

/// Divides `weight + offset` by `scales`; returns by how much it is less now that it is rounded.
fn divide_norm(weight: &mut Array, offset: f32, scales: &[f32]) -> Result<Vec<f32>> {
    let (dtype, shape) = (weight.dtype(), weight.shape().to_vec());
    let rounded = |values: &[f32]| Array::from_slice(values, &shape).as_dtype(dtype);
    let before = values(weight)?;
    let mut divided: Vec<f32> =
        before.iter().zip(scales).map(|(weight, scale)| (weight + offset) / scale - offset).collect();
    let after = values(&rounded(&divided)?)?;
    for ((divided, after), before) in divided.iter_mut().zip(after).zip(&before) {
        // Nothing makes up for a channel that is rounded to zero.
        if after + offset == 0.0 {
            *divided = *before;
        }
    }
    *weight = rounded(&divided)?;
    let factor = |(before, after): (f32, f32)| match after + offset {
        0.0 => 1.0,
        after => (before + offset) / after,
    };
    Ok(before.into_iter().zip(values(weight)?).map(factor).collect())
}

/// Divides the rows of `x` that channels depend on.
fn divide_rows(x: &mut Array, rows: &[usize], scales: &[f32]) -> Result<()> {
    let mut divisors = vec![1.0_f32; x.dim(0) as usize];
    for (&row, &scale) in rows.iter().zip(scales) {
        divisors[row] = scale;
    }
    let shape = if x.ndim() == 1 { vec![x.dim(0)] } else { vec![x.dim(0), 1] };
    let divisors = Array::from_slice(&divisors, &shape);
    let divided = x.as_dtype(Dtype::Float32)?.divide(divisors)?.as_dtype(x.dtype())?;
    kernels::eval([&divided])?;
    *x = divided;
    Ok(())
}

fn values(x: &Array) -> Result<Vec<f32>> {
    let x = x.as_dtype(Dtype::Float32)?;
    kernels::eval([&x])?;
    Ok(x.as_slice::<f32>().to_vec())
}
