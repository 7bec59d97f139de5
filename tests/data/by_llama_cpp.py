"""What llama.cpp makes of texts with a given tokenizer, for the scripts in this folder. Needs gguf, numpy, xllamacpp."""
import ctypes, os, sys, tempfile
import gguf, numpy
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))
from gguf_models import library

def tokens_of(texts, add_tokenizer, count):
    """The tokens of texts, or None if llama.cpp does not open a model with this tokenizer: one block of zeros, with so many tokens."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        put = gguf.GGUFWriter(path, "llama")
        put.add_context_length(64); put.add_embedding_length(32); put.add_block_count(1); put.add_feed_forward_length(32)
        put.add_head_count(1); put.add_layer_norm_rms_eps(1e-5)
        add_tokenizer(put)
        put.add_tensor("token_embd.weight", numpy.zeros((count, 32), numpy.float32))
        for tensor in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            put.add_tensor(f"{tensor}.weight", numpy.ones(32, numpy.float32))
        for tensor in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            put.add_tensor(f"blk.0.{tensor}.weight", numpy.zeros((32, 32), numpy.float32))
        put.write_header_to_file(); put.write_kv_data_to_file(); put.write_tensors_to_file(); put.close()
        so = library()
        silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        so.llama_log_set(silent, None); so.llama_backend_init()
        model = so.llama_model_load_from_file(path.encode(), so.llama_model_default_params())
        if not model:
            return None
        vocabulary, out = so.llama_model_get_vocab(model), []
        for text in texts:
            room = (ctypes.c_int32 * 4096)()
            found = so.llama_tokenize(vocabulary, text.encode(), len(text.encode()), room, len(room), True, True)
            out.append(list(room[:found]))
        return out
