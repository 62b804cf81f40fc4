#include "buffer_cache.h"
#include "host_op.h"

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"

namespace {

using mlx::core::array;

// The node may die before its task runs, so node and task share the callbacks.
struct Callbacks {
  eat_host_op op;
  explicit Callbacks(eat_host_op op) : op(op) {}
  Callbacks(const Callbacks&) = delete;
  ~Callbacks() {
    op.drop(op.context);
  }
};

eat_buffer buffer(array& a) {
  return {
      a.data<void>(),
      a.size(),
      a.shape().data(),
      a.shape().size(),
      mlx_dtype_to_c(a.dtype())};
}

std::vector<mlx_array> handles(const std::vector<array>& arrays) {
  std::vector<mlx_array> result;
  for (const auto& a : arrays) {
    // Borrowed by the callback: no reference count changes hands.
    result.push_back({const_cast<array*>(&a)});
  }
  return result;
}

class HostOp : public mlx::core::Primitive {
 public:
  HostOp(
      mlx::core::Stream stream,
      std::shared_ptr<Callbacks> callbacks,
      std::vector<int> donors)
      : Primitive(stream),
        callbacks_(std::move(callbacks)),
        donors_(std::move(donors)) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs)
      override {
    const auto donated = allocate(inputs, outputs);
    std::vector<array> ins, outs;
    for (const auto& a : inputs) {
      ins.push_back(array::unsafe_weak_copy(a));
    }
    for (auto& a : outputs) {
      outs.push_back(array::unsafe_weak_copy(a));
    }
    auto& encoder = mlx::core::cpu::get_command_encoder(stream());
    encoder.dispatch([callbacks = callbacks_,
                      ins = std::move(ins),
                      outs = std::move(outs),
                      donated]() mutable {
      std::vector<eat_buffer> in, out;
      for (auto& a : ins) {
        in.push_back(buffer(a));
      }
      for (int i : donated) {
        // Two references to the same memory would not do.
        in[i].data = nullptr;
        in[i].size = 0;
      }
      for (auto& a : outs) {
        out.push_back(buffer(a));
      }
      callbacks->op.eval(
          callbacks->op.context, in.data(), in.size(), out.data(), out.size());
    });
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error(std::string(name()) + " runs on the CPU only");
  }

  std::vector<array> vjp(
      const std::vector<array>& primals,
      const std::vector<array>& cotangents,
      const std::vector<int>& argnums,
      const std::vector<array>& outputs) override {
    const auto p = handles(primals), c = handles(cotangents), o = handles(outputs);
    std::vector<mlx_array> grads(argnums.size(), mlx_array{nullptr});
    const int status = callbacks_->op.vjp(
        callbacks_->op.context,
        p.data(),
        p.size(),
        c.data(),
        c.size(),
        argnums.data(),
        argnums.size(),
        o.data(),
        o.size(),
        grads.data());
    std::vector<array> result;
    for (auto& grad : grads) {
      if (grad.ctx != nullptr) {
        result.push_back(mlx_array_get_(grad));
        mlx_array_free_(grad);
      }
    }
    if (status != 0 || result.size() != argnums.size()) {
      throw std::runtime_error(std::string("gradient of ") + name() + " failed");
    }
    return result;
  }

  const char* name() const override {
    return callbacks_->op.name;
  }

 private:
  // Gives every output memory, and tells which inputs lost theirs.
  std::vector<int> allocate(
      const std::vector<array>& inputs, std::vector<array>& outputs) {
    std::vector<int> donated;
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto& out = outputs[i];
      // All outputs refer to the inputs, but MLX asks one of them only: what the
      // others hold would make every input look needed.
      if (&out.inputs() != &inputs && !out.is_tracer()) {
        out.inputs().clear();
      }
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto& out = outputs[i];
      const int donor = donors_[i];
      if (donor >= 0 && fits(inputs[donor], out)) {
        out.copy_shared_buffer(inputs[donor]);
        donated.push_back(donor);
      } else {
        allocate_cached(out);
      }
    }
    return donated;
  }

  static bool fits(const array& in, const array& out) {
    return in.is_donatable() && in.flags().row_contiguous &&
        in.shape() == out.shape() && in.dtype() == out.dtype();
  }

  std::shared_ptr<Callbacks> callbacks_;
  std::vector<int> donors_;
};

// The callback reads plain row-major memory. Most inputs are that already, and a
// node saved is time saved: small models have thousands per token.
array row_major(const array& a, mlx::core::Stream s) {
  const bool ours = a.has_primitive() && !a.is_available() &&
      dynamic_cast<const HostOp*>(&a.primitive()) != nullptr;
  if (ours || (a.is_available() && a.flags().row_contiguous)) {
    return a;
  }
  return mlx::core::contiguous(a, false, s);
}

} // namespace

extern "C" int eat_host_op_apply(
    mlx_array* results,
    eat_host_op op,
    const mlx_array* inputs,
    size_t num_inputs,
    const int* shapes,
    const size_t* ndims,
    const mlx_dtype* dtypes,
    const int* donors,
    size_t num_outputs,
    mlx_stream stream) {
  try {
    auto callbacks = std::make_shared<Callbacks>(op);
    const auto s = mlx_stream_get_(stream);
    std::vector<array> ins;
    for (size_t i = 0; i < num_inputs; ++i) {
      ins.push_back(row_major(mlx_array_get_(inputs[i]), s));
    }
    std::vector<mlx::core::Shape> out_shapes;
    std::vector<mlx::core::Dtype> out_dtypes;
    for (size_t i = 0; i < num_outputs; ++i) {
      out_shapes.emplace_back(shapes, shapes + ndims[i]);
      out_dtypes.push_back(mlx_dtype_to_cpp(dtypes[i]));
      shapes += ndims[i];
    }
    auto outs = array::make_arrays(
        std::move(out_shapes),
        out_dtypes,
        std::make_shared<HostOp>(
            s,
            std::move(callbacks),
            std::vector<int>(donors, donors + num_outputs)),
        ins);
    for (size_t i = 0; i < num_outputs; ++i) {
      mlx_array_set_(results[i], outs[i]);
    }
    return 0;
  } catch (std::exception& e) {
    mlx_error(e.what());
    return 1;
  }
}
