// llama.cpp as a peer of the tests.
//
//   llama greedy MODEL COUNT [ADAPTER]   token ids on standard input → lines "id logit second_logit" of a greedy continuation
//   llama tokens MODEL                   text on standard input → token ids
//   llama quantize TYPE ROWS COLUMNS IMPORTANCE   float32 rows (behind COLUMNS weights if IMPORTANCE is 1) → blocks

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "ggml.h"
#include "llama.h"

static int fail(const char * why) {
    std::fprintf(stderr, "%s\n", why);
    return 1;
}

static std::vector<char> read_all() {
    return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

static llama_model * load(const char * path) {
    llama_backend_init();
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
    }, nullptr);
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    return llama_model_load_from_file(path, params);
}

static int greedy(const char * path, int count, const char * adapter_path) {
    llama_model * model = load(path);
    if (!model) return fail("cannot load the model");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    // More would wait for each other where other programs run.
    params.n_threads = params.n_threads_batch = 1;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) return fail("cannot create a context");
    if (adapter_path) {
        llama_adapter_lora * adapter = llama_adapter_lora_init(model, adapter_path);
        if (!adapter) return fail("cannot load the adapter");
        float scale = 1.0f;
        if (llama_set_adapters_lora(context, &adapter, 1, &scale)) return fail("cannot apply the adapter");
    }
    std::vector<llama_token> ids;
    for (int id; std::cin >> id;) ids.push_back(id);
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int step = 0; step < count; ++step) {
        if (llama_decode(context, llama_batch_get_one(ids.data(), (int) ids.size()))) return fail("cannot decode");
        const float * logits = llama_get_logits_ith(context, -1);
        const int best = (int) (std::max_element(logits, logits + vocabulary) - logits);
        float second = -1e30f;
        for (int i = 0; i < vocabulary; ++i) if (i != best) second = std::max(second, logits[i]);
        std::printf("%d %.9g %.9g\n", best, logits[best], second);
        ids = {best};
    }
    return 0;
}

static int tokens(const char * path) {
    llama_model * model = load(path);
    if (!model) return fail("cannot load the model");
    const llama_vocab * vocabulary = llama_model_get_vocab(model);
    const std::vector<char> text = read_all();
    std::vector<llama_token> ids(text.size() + 8);
    const int count = llama_tokenize(vocabulary, text.data(), (int) text.size(), ids.data(), (int) ids.size(), true, true);
    if (count < 0) return fail("cannot tokenize");
    for (int i = 0; i < count; ++i) std::printf("%d\n", ids[i]);
    return 0;
}

static int quantize(const char * name, int64_t rows, int64_t columns, bool weighted) {
    int type = 0;
    while (type < GGML_TYPE_COUNT && std::strcmp(ggml_type_name((ggml_type) type), name) != 0) ++type;
    if (type == GGML_TYPE_COUNT) return fail("unknown type");
    const std::vector<char> bytes = read_all();
    const float * values = (const float *) bytes.data();
    const float * importance = weighted ? values : nullptr;
    const float * source = values + (weighted ? columns : 0);
    std::vector<char> out(rows * ggml_row_size((ggml_type) type, columns));
    ggml_quantize_chunk((ggml_type) type, source, out.data(), 0, rows, columns, importance);
    return std::fwrite(out.data(), 1, out.size(), stdout) == out.size() ? 0 : fail("cannot write");
}

int main(int argc, char ** argv) {
    const std::string command = argc > 1 ? argv[1] : "";
    if (command == "greedy" && argc >= 4) return greedy(argv[2], std::atoi(argv[3]), argc > 4 ? argv[4] : nullptr);
    if (command == "tokens" && argc == 3) return tokens(argv[2]);
    if (command == "quantize" && argc == 6) {
        return quantize(argv[2], std::atoll(argv[3]), std::atoll(argv[4]), std::atoi(argv[5]) != 0);
    }
    return fail("see the first lines of the source");
}
