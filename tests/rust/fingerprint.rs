//! What identifies the weights of a model.

use std::collections::BTreeSet;

use efficientai_toolkit::models::{self, Model};
use efficientai_toolkit::nn::Linear;
use efficientai_toolkit::nn::fingerprint::fingerprint;
use efficientai_toolkit::params::set_parameters;
use mlx_rs::Array;
use serde_json::json;

#[test]
fn every_number_counts_and_nothing_else() {
    let model = || -> Box<Model> {
        let config = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "vocab_size": 30, "tie_word_embeddings": true
        });
        let mut model = models::create(&config).unwrap();
        models::initialize(model.as_mut(), 0.5, 3).unwrap();
        model
    };
    let of = |change: &dyn Fn(&mut Model)| {
        let mut model = model();
        change(model.as_mut());
        fingerprint(model.as_mut(), "").unwrap()
    };
    let visit = |change: fn(&mut Linear)| {
        of(&move |model| {
            let mut count = 0;
            let visited = model.visit_linears(&mut |_, layer| {
                count += 1;
                if count == 5 {
                    change(layer);
                }
                Ok(())
            });
            visited.unwrap();
        })
    };
    let plain = of(&|_| {});
    assert_eq!(plain, of(&|_| {}));
    let one_weight = of(&|model| {
        let weight = model.parameters().flatten()["model.norm.weight"].clone();
        let changed = weight.multiply(Array::from_f32(1.0001)).unwrap();
        set_parameters(model, &[("model.norm.weight".to_owned(), changed)].into()).unwrap();
    });
    let turned = visit(|layer| *layer.weight = layer.weight.multiply(Array::from_f32(-1.0)).unwrap());
    let scaled = visit(|layer| layer.low_rank.scale += 1.0);
    let fixed = visit(|layer| {
        layer.low_rank.fixed =
            Some([Array::zeros::<f32>(&[16, 1]).unwrap(), Array::zeros::<f32>(&[1, 16]).unwrap()]);
    });
    let adapted = visit(|layer| layer.lora_a.value = Some(Array::zeros::<f32>(&[16, 1]).unwrap()));
    let configured = fingerprint(model().as_mut(), "{}").unwrap();
    let all = BTreeSet::from([plain, one_weight, turned, scaled, fixed, adapted, configured]);
    assert_eq!(all.len(), 7);
}
