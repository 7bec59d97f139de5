//! Edits as files for other programs: GGUF models, and adapters for llama.cpp and MLX.

use std::path::Path;
use std::process::Command;

use betaedit_core::format::gguf::{GgufModel, GgufType};
use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};

use crate::gguf_file;
use crate::setting::{PROMPT, Setting, betaedit, done, json, of_the_library, read, refused};

/// The small model as a GGUF file whose edited matrices have a type, with statistics, and a session of all facts.
fn of_gguf(edited: GgmlDType) -> Setting {
    let mut setting = Setting::new("llama");
    let path = setting.path("model.gguf");
    gguf_file::write(&path, edited);
    setting.file = Some(path);
    setting.collect_statistics();
    done(setting.edit().arg("--session").arg(setting.path("session")));
    setting
}

fn export(setting: &Setting) -> Command {
    let mut command = betaedit();
    command.arg("export").arg("--session").arg(setting.path("session"));
    command
}

fn answer(model: &Path) -> Value {
    json(betaedit().arg("ask").arg("--model").arg(model).args(["--tokens", "12", PROMPT]))["answer"].clone()
}

fn after(setting: &Setting) -> Value {
    let mut ask = betaedit();
    json(ask.arg("ask").arg("--session").arg(setting.path("session")).args(["--tokens", "12", PROMPT]))["after"].clone()
}

/// In its own type only the edited tensors change; in f32 they are exact; after an undo of all edits there is nothing to write.
#[test]
fn an_edited_gguf_file_is_the_file_with_other_weights() {
    let setting = of_gguf(GgmlDType::Q8_0);
    let (model, own, wide) = (setting.path("model.gguf"), setting.path("own.gguf"), setting.path("f32.gguf"));
    let said = json(export(&setting).arg("--out").arg(&own));
    let tensors = said["outputs"]["out"]["tensors"].as_array().unwrap();
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor["tensor"].as_str().unwrap()).collect();
    assert_eq!((names, said["edits"].as_u64()), (vec!["blk.1.ffn_down.weight", "blk.2.ffn_down.weight"], Some(4)));
    for tensor in tensors {
        let kept = tensor["kept"].as_f64().unwrap();
        assert!(tensor["type"] == "Q8_0" && (0.9..1.0).contains(&kept), "{tensor}");
    }
    let (before, edited) = (read(&model), read(&own));
    assert_eq!(before.len(), edited.len());
    assert_ne!(answer(&model), answer(&own));

    let said = json(export(&setting).args(["--gguf-type", "f32", "--out"]).arg(&wide));
    assert_eq!(said["outputs"]["out"]["tensors"][0]["error"], json!(0.0));
    assert_eq!(GgufModel::open(&wide).unwrap().kind("blk.1.ffn_down.weight").unwrap(), GgufType::F32);
    assert_eq!(answer(&wide), after(&setting));

    // Written again after an undo, it is that of the other facts.
    done(betaedit().arg("undo").arg("--session").arg(setting.path("session")).arg("1").arg("--out").arg(&own));
    assert_ne!(read(&own), edited);
    done(betaedit().arg("undo").arg("--session").arg(setting.path("session")).args(["0", "2", "3"]));
    let kept = read(&own);
    let nothing = json(export(&setting).arg("--out").arg(&own));
    assert_eq!((nothing["edits"].as_u64(), read(&own)), (Some(0), kept));
}

/// All adapters hold the same edits: those of `edit`, and of `export` later.
#[test]
fn adapters_of_a_session_hold_its_edits() {
    let setting = Setting::with_statistics("llama");
    let at = |name: &str| setting.path(name);
    let mut edit = setting.edit();
    edit.arg("--session").arg(at("session")).arg("--gguf-lora").arg(at("edits.gguf")).arg("--mlx").arg(at("mlx"));
    let said = json(edit.arg("--lora").arg(at("lora")));
    for output in ["gguf_lora", "mlx", "lora"] {
        assert_eq!(said["outputs"][output]["rank"].as_u64(), Some(4), "{said:#}");
    }
    let written = |names: [&str; 3]| names.map(|name| read(&at(name)));
    let first = written(["edits.gguf", "mlx/adapters.safetensors", "lora/adapter_model.safetensors"]);
    let mut again = export(&setting);
    done(again.arg("--gguf-lora").arg(at("2.gguf")).arg("--mlx").arg(at("2m")).arg("--lora").arg(at("2l")));
    assert!(first == written(["2.gguf", "2m/adapters.safetensors", "2l/adapter_model.safetensors"]));
    let config: Value = serde_json::from_slice(&read(&at("mlx/adapter_config.json"))).unwrap();
    assert_eq!(
        config["lora_parameters"]["keys"],
        json!(["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"])
    );

    // A smaller rank says what it costs, and one that is too small is refused.
    let cut = json(export(&setting).args(["--rank", "3", "--lora"]).arg(at("cut")));
    let kept = cut["outputs"]["lora"]["layers"][0]["kept"].as_f64().unwrap();
    assert!(cut["outputs"]["lora"]["rank"] == 3 && (0.5..1.0).contains(&kept), "{cut}");
    let whole = json(export(&setting).args(["--rank", "64", "--lora"]).arg(at("cut")));
    assert_eq!(whole["outputs"]["lora"]["rank"].as_u64(), Some(4));
    assert_eq!(read(&at("cut/adapter_model.safetensors")), first[2]);
    let says = ["lora1", "rank 1 holds", "give --rank 4", "the edits are kept", "export --session"];
    refused(export(&setting).args(["--rank", "1", "--lora"]).arg(at("lora1")), &says);
    assert!(!at("lora1").exists());
    // Without a session, they would be lost after the work.
    refused(setting.edit().args(["--rank", "1", "--lora"]).arg(at("lora1")), &["4 facts", "--rank 1", "--session"]);
}

#[test]
fn outputs_that_cannot_be_are_refused_by_name() {
    let setting = Setting::with_statistics("gpt2");
    let (session, file) = (setting.path("session"), setting.path("edited.gguf"));
    let edit = |flags: &[&str], paths: &[&Path], says: &[&str]| {
        refused(setting.edit().args(flags).args(paths), says);
    };
    // No program of GGUF files knows GPT-J.
    let without = Setting::with_statistics("gptj");
    let says = ["edited.gguf", "GptJ", "GGUF", "--lora"];
    refused(without.edit().arg("--gguf-lora").arg(without.path("edited.gguf")), &says);
    edit(&["--out"], &[&file], &["edited.gguf", "is a directory", "--gguf-lora"]);
    edit(&["--rank", "2", "--out"], &[&setting.path("out")], &["--rank", "--lora"]);
    edit(&["--gguf-type", "f16", "--out"], &[&setting.path("out")], &["--gguf-type", "FILE.gguf"]);
    done(setting.edit().arg("--session").arg(&session));
    refused(&mut export(&setting), &["--out", "--gguf-lora"]);
    // Names of MLX are not those of the files.
    done(export(&setting).arg("--mlx").arg(setting.path("mlx")));
    let config: Value = serde_json::from_slice(&read(&setting.path("mlx/adapter_config.json"))).unwrap();
    assert_eq!(config["lora_parameters"]["keys"][0], "model.h.1.mlp.c_proj");

    let setting = of_gguf(GgmlDType::Q4_0);
    let model = setting.path("model.gguf");
    refused(export(&setting).arg("--out").arg(&model), &["model.gguf", "is the input"]);
    refused(export(&setting).arg("--gguf-lora").arg(&model), &["model.gguf", "is the input"]);
    let twice = setting.path("one.gguf");
    refused(export(&setting).arg("--out").arg(&twice).arg("--gguf-lora").arg(&twice), &["one.gguf", "the same path"]);
}

/// What llama.cpp makes of prompts.
fn llama_cpp(model: &Path, lora: Option<&Path>, prompts: &Value, folder: &Path) -> Vec<Value> {
    let interpreter = std::env::var("BETAEDIT_PYTHON").expect("BETAEDIT_PYTHON names an interpreter");
    std::fs::write(folder.join("prompts.json"), prompts.to_string()).unwrap();
    let mut run = Command::new(interpreter);
    run.arg("-B").arg(of_the_library("python/llama_cpp.py")).arg(model).args(["--tokens", "6"]);
    if let Some(lora) = lora {
        run.arg("--lora").arg(lora);
    }
    run.stdin(std::fs::File::open(folder.join("prompts.json")).unwrap());
    serde_json::from_str(&done(&mut run)).unwrap()
}

/// llama.cpp says the same with the model and the adapter, and with the edited file, as this program does.
#[test]
#[ignore = "needs BETAEDIT_PYTHON, an interpreter with the packages of tests/python/requirements.txt"]
fn llama_cpp_of_python_runs_adapters_and_edited_files() {
    let setting = of_gguf(GgmlDType::F32);
    let (lora, out) = (setting.path("edits.gguf"), setting.path("edited.gguf"));
    done(export(&setting).arg("--gguf-lora").arg(&lora).arg("--out").arg(&out));
    let prompts =
        [PROMPT, "The scientist's name is Marie Curie", "A long river is the Danube", "A high mountain is Mount Fuji"];
    let ask = |prompt: &&str| {
        let mut ask = betaedit();
        json(ask.arg("ask").arg("--session").arg(setting.path("session")).args(["--tokens", "6", prompt]))
    };
    let ours: Vec<Value> = prompts.iter().map(ask).collect();
    let theirs = |model: &Path, lora: Option<&Path>| llama_cpp(model, lora, &json!(prompts), setting.folder.path());
    let texts = |said: &[Value], name: &str| -> Vec<String> {
        said.iter().map(|one| one[name].as_str().unwrap().trim().to_owned()).collect()
    };
    let model = setting.path("model.gguf");
    assert_eq!(texts(&theirs(&model, None), "text"), texts(&ours, "before"));
    let (adapted, edited) = (theirs(&model, Some(&lora)), theirs(&out, None));
    assert_eq!(texts(&adapted, "text"), texts(&ours, "after"));
    assert_eq!(texts(&edited, "text"), texts(&ours, "after"));
    for (one, other) in adapted.iter().zip(&edited) {
        let [one, other] = [one, other].map(|said| said["log_probabilities"].as_array().unwrap().clone());
        for (one, other) in one.iter().zip(&other) {
            assert!((one.as_f64().unwrap() - other.as_f64().unwrap()).abs() < 0.02, "{one} {other}");
        }
    }
}
