//! Adapters of a network that is no language model.

use mlx_macros::ModuleParameters;
use mlx_rs::{Array, Dtype};

use super::attach::{AdapterSettings, Init, Scaling, attach};
use super::*;
use crate::nn::network::GradientCheckpointing;
use crate::nn::{Linear, Network};
use crate::{Result, kernels};

/// `y = b(a(x))`
#[derive(Debug, ModuleParameters)]
struct Pair {
    #[param]
    a: Linear,
    #[param]
    b: Linear,
}

impl Pair {
    fn new() -> Self {
        let layer = || {
            let mut layer = Linear::new(4, 4, false).unwrap();
            *layer.weight = Array::eye::<f32>(4, None, None).unwrap();
            layer
        };
        Self { a: layer(), b: layer() }
    }

    fn forward(&self) -> Vec<f32> {
        let x = Array::from_slice(&[1.0_f32, -2.0, 3.0, 0.5], &[1, 4]);
        let y = self.b.forward(&self.a.forward(&x).unwrap()).unwrap();
        kernels::eval([&y]).unwrap();
        y.as_slice::<f32>().to_vec()
    }

    /// With an adapter on `a` that does something.
    fn adapted() -> Self {
        let mut pair = Self::new();
        let targets = ["a".to_owned()];
        attach(&mut pair, &settings(&targets)).unwrap();
        *pair.a.lora_b = Some(Array::full::<f32>(&[2, 4], Array::from_f32(0.25)).unwrap());
        pair
    }
}

impl Network for Pair {
    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear) -> Result<()>) -> Result<()> {
        visit("a", &mut self.a)?;
        visit("b", &mut self.b)
    }

    fn set_gradient_checkpointing(&mut self, _: Option<GradientCheckpointing>) {}

    fn dtype(&self) -> Dtype {
        self.a.weight.dtype()
    }
}

fn settings(targets: &[String]) -> AdapterSettings<'_> {
    AdapterSettings {
        target_modules: Some(targets),
        num_layers: None,
        rank: 2,
        rank_pattern: None,
        alpha: 4.0,
        scaling: Scaling::Rank,
        dropout: 0.0,
        init: Init::Lora,
        seed: 1,
    }
}

#[test]
fn an_adapter_goes_to_disk_and_back_in_both_formats() {
    let mut trained = Pair::adapted();
    let adapter = Adapter::from_network(&mut trained, None).unwrap();
    assert!(adapter.layers.keys().eq(["a"]));
    for format in [Format::Mlx, Format::Peft] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &adapter, format, Some(&mut trained)).unwrap();
        let mut network = Pair::new();
        let (stored, found) = read(folder.path(), Some(&network)).unwrap();
        assert_eq!(found, format);
        let StoredAdapter::LowRank(stored) = stored else { panic!("{stored:?}") };
        stored.attach(&mut network).unwrap();
        assert_eq!(network.forward(), trained.forward(), "{format:?}");
    }
}

#[test]
fn adapters_are_swapped_and_merged() {
    let mut network = Pair::adapted();
    let (plain, adapted) = (Pair::new().forward(), network.forward());
    let mut library = Library::from_network(&mut network).unwrap();
    library.set(&mut network, &[].into()).unwrap();
    assert_eq!(network.forward(), plain);
    library.set(&mut network, &[("default".to_owned(), 1.0)].into()).unwrap();
    assert_eq!(network.forward(), adapted);
    let adapter = Adapter::from_network(&mut network, None).unwrap();
    merge::merge_weights(&mut network, &adapter, None).unwrap();
    assert!(network.a.lora_a.is_none());
    for (merged, adapted) in network.forward().iter().zip(adapted) {
        assert!((merged - adapted).abs() < 1e-5, "{merged} {adapted}");
    }
}

#[test]
fn layers_without_a_block_are_none_of_the_last_blocks() {
    let targets = ["a".to_owned()];
    let settings = AdapterSettings { num_layers: Some(1), ..settings(&targets) };
    let message = attach(&mut Pair::new(), &settings).unwrap_err().to_string();
    assert!(message.contains("only 0 layers"), "{message}");
}
