#include "launcher/bundle_export.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/at_once.h"
#include "common/files.h"
#include "launcher/added_items.h"
#include "launcher/bundle_tables.h"
#include "launcher/golden_requests.h"
#include "launcher/grown_log.h"
#include "launcher/inspected_commit.h"
#include "launcher/run_inputs.h"
#include "serving/bundle_model.h"
#include "serving/onnx_writer.h"
#include "serving/ranker_graph.h"
#include "serving/torchscript_writer.h"
#include "serving/triton.h"
#include "worker/data/log_schema.h"
#include "worker/tables.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kModelName = "savior";

// Weights without the optimizer's moments.
absl::Status WriteRanker(const fs::path& folder, const TensorFile& dense) {
  TensorFile weights;
  for (const auto& [name, tensor] : dense.tensors) {
    if (!name.starts_with("adam.")) weights.tensors[name] = tensor;
  }
  weights.metadata["format"] = "pt";
  return WriteTensorFile(folder / kBundleRanker, weights);
}

// The graph as ONNX and TorchScript; for Triton, too.
absl::Status WriteGraphs(const fs::path& folder, const Graph& graph,
                         const std::map<std::string, std::string>& metadata) {
  SAVIOR_ASSIGN_OR_RETURN(
      const std::string onnx,
      OnnxModel(graph, {.producer_version = SAVIOR_VERSION, .metadata = metadata}));
  SAVIOR_RETURN_IF_ERROR(WriteFile(folder / kBundleOnnx, onnx));
  SAVIOR_ASSIGN_OR_RETURN(const std::string module, TorchScriptModule(graph, metadata));
  return WriteFile(folder / kBundleTorchScript, module);
}

absl::Status WriteTriton(const fs::path& folder, const Graph& graph) {
  const fs::path model = folder / "triton" / kModelName;
  SAVIOR_RETURN_IF_ERROR(MakeWritableFolder(model / "1"));
  std::error_code error;
  fs::create_hard_link(folder / kBundleOnnx, model / "1" / "model.onnx", error);
  if (error) return SystemError(error.value(), "linking " + (model / "1/model.onnx").string());
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, TritonConfig(graph, {.name = kModelName}));
  return WriteFile(model / "config.pbtxt", text);
}

// For readers without our code: which column of which table holds the rows of each input of the
// graph (ranker_graph.h; but for numerics, which are no rows), and what their keys are of. An input
// of two tables is there twice, its left columns first.
nlohmann::json InputsToJson(const Graph& graph, const Config& config) {
  struct Source {
    const char* table;
    const char* column;
  };
  static const std::map<std::string, Source> kSources = {
      {"user", {"user", "row"}},           {"item", {"item", "row"}},
      {"aligned", {kAlignedTable, "row"}}, {"content", {"content", kZColumn}},
      {"features", {"feature", "row"}},    {"context", {"feature", "row"}},
      {"codes", {"align", "row"}}};
  nlohmann::json inputs = nlohmann::json::array();
  const auto add = [&inputs](const std::string& name, const Source& source, const std::string& keys,
                             int64_t width) {
    inputs.push_back({{"name", name},
                      {"table", source.table},
                      {"column", source.column},
                      {"keys", keys},
                      {"width", width}});
  };
  for (const size_t input : graph.inputs()) {
    const auto& [name, rows, width] = graph.value(input);
    const std::string side = rows == Rows::kHistory ? "history_" : "";
    const auto source = kSources.find(name.substr(side.size()));
    if (source == kSources.end()) continue;
    const bool aligned = source->first == "aligned";
    const int64_t prefixes =
        name == "codes" ? static_cast<int64_t>(PrefixesOf(config)) * config.encoder.dim : 0;
    add(name, source->second, aligned ? side + "content" : name, width - prefixes);
    if (prefixes > 0) add(name, {"prefix", "row"}, "prefixes", prefixes);
  }
  return inputs;
}

// The schema, with the graph's inputs, and for readers without our hash the key of every value in
// the feature table.
std::string SchemaText(const LogSchema& schema, const Graph& graph, const Config& config) {
  nlohmann::json j = SchemaToJson(schema);
  for (const char* kind : {"item_features", "context_features"}) {
    for (nlohmann::json& feature : j[kind]) {
      for (const auto& value : feature["vocabulary"]) {
        feature["keys"].push_back(
            FeatureKey(feature["name"].get<std::string>(), value.get<std::string>()));
      }
    }
  }
  j["inputs"] = InputsToJson(graph, config);
  return j.dump(1) + "\n";
}

// Copies what is there; its digest is its version.
absl::Status CopyVersioned(const fs::path& from, const fs::path& to, std::string* version) {
  std::error_code error;
  if (!fs::exists(from, error)) return absl::OkStatus();
  SAVIOR_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(from));
  *version = DigestBytes(bytes);
  return WriteFile(to, bytes);
}

// What the run's result says of this very step; "": nothing.
std::string MetricsOf(const Commit& commit) {
  const fs::path run = commit.folder.parent_path().parent_path();
  const auto text = ReadFile(run / "result.json");
  if (!text.ok()) return {};
  const Json result = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!result.is_object() || !result.contains("eval") ||
      result.value("steps", int64_t{-1}) != commit.manifest.step) {
    return {};
  }
  return result["eval"].dump();
}

// One export at work.
class Exporter {
 public:
  Exporter(const ExportOptions& options, InspectedCommit* commit, const RunInputs& inputs,
           const AddedItems& added, uint64_t new_contents)
      : options_(options),
        commit_(*commit),
        inputs_(inputs),
        added_(added),
        new_contents_(new_contents) {}

  absl::StatusOr<Bundle> Run() {
    BundleManifest manifest;
    manifest.step = commit_.commit().manifest.step;
    manifest.precision = options_.precision;
    manifest.commit = fs::absolute(commit_.commit().folder).lexically_normal().string();
    manifest.metrics = MetricsOf(commit_.commit());
    manifest.new_contents = new_contents_;
    if (options_.since) SAVIOR_RETURN_IF_ERROR(OpenBase(&manifest));
    return WriteBundle(
        options_.out, std::move(manifest),
        [this](const fs::path& part, BundleManifest* whole) { return Fill(part, whole); });
  }

 private:
  absl::Status OpenBase(BundleManifest* manifest) {
    if (options_.hps || options_.triton) {
      return absl::InvalidArgumentError(
          "--since: HPS and Triton read whole tables and models: export a full bundle for them");
    }
    SAVIOR_ASSIGN_OR_RETURN(
        base_, OpenChain(options_.out, BundleName(*options_.since), /*digests=*/false));
    const Bundle& newest = base_->newest();
    if (newest.manifest.step >= manifest->step) {
      return absl::FailedPreconditionError(
          fmt::format("--since {}: the newest commit is of step {}: there is nothing since",
                      *options_.since, manifest->step));
    }
    manifest->base = {newest.manifest.step, newest.digest};
    manifest->sequence = newest.manifest.sequence + 1;
    manifest->precision = newest.manifest.precision;
    return absl::OkStatus();
  }

  absl::Status Fill(const fs::path& part, BundleManifest* manifest) {
    const fs::path& from = commit_.commit().folder;
    const CodebookState& state = commit_.commit().manifest.codebook;
    const LogSchema& schema = added_.schema();
    const Config& config = commit_.config();
    SAVIOR_RETURN_IF_ERROR(WriteFile(part / kResolvedFile, ToToml(config)));
    SAVIOR_RETURN_IF_ERROR(CopyVersioned(from / EncoderFileOf(state), part / kEncoderFile,
                                         &manifest->encoder_version));
    SAVIOR_RETURN_IF_ERROR(CopyVersioned(from / CodebookFileOf(state), part / kCodebookFile,
                                         &manifest->codebook_version));
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile dense, ReadTensorFile(from / kDenseFile));
    SAVIOR_RETURN_IF_ERROR(WriteRanker(part, dense));
    SAVIOR_ASSIGN_OR_RETURN(const Graph graph, RankerGraph(config, SizesOf(schema), dense));
    SAVIOR_RETURN_IF_ERROR(WriteFile(part / kBundleSchema, SchemaText(schema, graph, config)));
    SAVIOR_RETURN_IF_ERROR(WriteGraphs(
        part, graph, {{"step", std::to_string(manifest->step)}, {"arm", config.model.arm}}));
    BundleTables tables(&commit_, inputs_.log.get(), &added_, manifest->precision,
                        base_ ? &*base_ : nullptr, part,
                        options_.threads > 0 ? options_.threads : Cores());
    SAVIOR_ASSIGN_OR_RETURN(manifest->tables, tables.Write());
    if (options_.hps) SAVIOR_RETURN_IF_ERROR(WriteHps(part, config));
    if (options_.triton) SAVIOR_RETURN_IF_ERROR(WriteTriton(part, graph));
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<GoldenRequest> golden,
                            GoldenRequests(commit_, inputs_, options_.golden));
    return WriteFile(part / kBundleGolden, GoldenJson(golden));
  }

  const ExportOptions& options_;
  InspectedCommit& commit_;
  const RunInputs& inputs_;
  const AddedItems& added_;
  const uint64_t new_contents_;
  std::optional<BundleChain> base_;
};

}  // namespace

absl::StatusOr<Bundle> ExportBundle(const ExportOptions& options) {
  // Whatever is exported is served: every byte of it must be what was trained.
  SAVIOR_ASSIGN_OR_RETURN(const Commit found, FindCommit(options.from, /*digests=*/true));
  SAVIOR_ASSIGN_OR_RETURN(const auto commit, InspectedCommit::Open(found.folder));
  SAVIOR_ASSIGN_OR_RETURN(const RunInputs inputs, RunInputs::Open(commit->config()));
  // Items that are known by now are served, whether the commit knows them or not.
  SAVIOR_ASSIGN_OR_RETURN(int64_t new_contents,
                          CatchUp(found, commit->config(), *inputs.log, commit->store()));
  SAVIOR_ASSIGN_OR_RETURN(const AddedItems added,
                          AddedItems::Of(found.folder.parent_path().parent_path(), *inputs.log));
  if (!added.items().empty()) {
    SAVIOR_ASSIGN_OR_RETURN(const Content content, ContentOf(found, inputs.periods.training.until));
    SAVIOR_ASSIGN_OR_RETURN(const int64_t more,
                            added.PutContents(found, commit->config(), content, commit->store()));
    new_contents += more;
  }
  UseThreads(commit->config());
  return Exporter(options, commit.get(), inputs, added, static_cast<uint64_t>(new_contents)).Run();
}

}  // namespace savior
