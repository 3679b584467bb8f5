#include "launcher/commit.h"

#include <absl/strings/str_cat.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "common/at_once.h"
#include "common/failpoint.h"
#include "common/files.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr const char* kPrefix = "commit-";

Json TableToJson(const TableSpec& t) {
  const OptimizerSpec& o = t.optimizer;
  const AdmissionSpec& a = t.admission;
  const EvictionSpec& e = t.eviction;
  return {
      {"name", t.name},
      {"dim", t.dim},
      {"kind", static_cast<int>(t.kind)},
      {"dtype", static_cast<int>(t.dtype)},
      {"init_scale", t.init_scale},
      {"optimizer",
       {{"kind", static_cast<int>(o.kind)},
        {"lr", o.lr},
        {"eps", o.eps},
        {"initial_accumulator", o.initial_accumulator},
        {"beta1", o.beta1},
        {"beta2", o.beta2},
        {"l1", o.l1},
        {"l2", o.l2},
        {"weight_decay", o.weight_decay}}},
      {"admission",
       {{"kind", static_cast<int>(a.kind)}, {"count", a.count}, {"probability", a.probability}}},
      {"eviction",
       {{"idle_steps", e.idle_steps},
        {"min_score", e.min_score},
        {"score_idle_steps", e.score_idle_steps},
        {"capacity_rows", e.capacity_rows},
        {"floor_rows", e.floor_rows},
        {"max_share_per_minute", e.max_share_per_minute}}},
      {"bad_gradients", static_cast<int>(t.bad_gradients)}};
}

// What older commits do not say is as it was then: everything admitted, nothing evicted, bad
// gradients refused.
void ReadRules(const Json& j, TableSpec* t) {
  if (const auto a = j.find("admission"); a != j.end()) {
    t->admission.kind = static_cast<AdmissionKind>(a->at("kind").get<int>());
    t->admission.count = a->at("count").get<uint32_t>();
    t->admission.probability = a->at("probability").get<float>();
  }
  if (const auto e = j.find("eviction"); e != j.end()) {
    t->eviction.idle_steps = e->at("idle_steps").get<uint32_t>();
    t->eviction.min_score = e->at("min_score").get<float>();
    t->eviction.score_idle_steps = e->at("score_idle_steps").get<uint32_t>();
    t->eviction.capacity_rows = e->at("capacity_rows").get<uint64_t>();
    t->eviction.floor_rows = e->at("floor_rows").get<uint64_t>();
    t->eviction.max_share_per_minute = e->at("max_share_per_minute").get<float>();
  }
  if (const auto b = j.find("bad_gradients"); b != j.end()) {
    t->bad_gradients = static_cast<BadGradients>(b->get<int>());
  }
}

// Throws nlohmann's exceptions on anything unexpected; ParseManifest catches them.
TableSpec TableFromJson(const Json& j) {
  TableSpec t;
  t.name = j.at("name").get<std::string>();
  t.dim = j.at("dim").get<uint32_t>();
  t.kind = static_cast<TableKind>(j.at("kind").get<int>());
  t.dtype = static_cast<StoreDtype>(j.at("dtype").get<int>());
  t.init_scale = j.at("init_scale").get<float>();
  const Json& o = j.at("optimizer");
  t.optimizer.kind = static_cast<OptimizerKind>(o.at("kind").get<int>());
  t.optimizer.lr = o.at("lr").get<float>();
  t.optimizer.eps = o.at("eps").get<float>();
  t.optimizer.initial_accumulator = o.at("initial_accumulator").get<float>();
  t.optimizer.beta1 = o.at("beta1").get<float>();
  t.optimizer.beta2 = o.at("beta2").get<float>();
  t.optimizer.l1 = o.at("l1").get<float>();
  t.optimizer.l2 = o.at("l2").get<float>();
  t.optimizer.weight_decay = o.at("weight_decay").get<float>();
  ReadRules(j, &t);
  return t;
}

std::string Print(const CommitManifest& m) {
  Json j = {{"format", kFormat},
            {"step", m.step},
            {"samples", m.samples},
            {"log_fingerprint", m.log_fingerprint},
            {"trained_until", m.trained_until},
            {"shards", m.shards},
            {"codebook", ToJson(m.codebook)}};
  j["tables"] = Json::array();
  for (const TableSpec& table : m.tables) j["tables"].push_back(TableToJson(table));
  return SealManifest(std::move(j), m.files);
}

absl::StatusOr<CommitManifest> ParseManifest(const fs::path& path, const std::string& text) {
  SAVIOR_ASSIGN_OR_RETURN(SealedManifest sealed, UnsealManifest(path, text));
  const auto damaged = [&path](const std::string& what) {
    return absl::DataLossError(fmt::format("{}: {}", path.string(), what));
  };
  try {
    const Json& j = sealed.fields;
    if (j.at("format").get<int>() != kFormat) {
      return damaged(fmt::format("format {}: written by another version of savior",
                                 j.at("format").get<int>()));
    }
    CommitManifest m;
    m.step = j.at("step").get<int64_t>();
    m.samples = j.at("samples").get<int64_t>();
    m.log_fingerprint = j.at("log_fingerprint").get<std::string>();
    if (const auto ends = j.find("trained_until"); ends != j.end()) {
      m.trained_until = ends->get<std::vector<int64_t>>();
      if (!std::ranges::is_sorted(m.trained_until, std::less_equal())) {
        return damaged("trained_until does not ascend");
      }
    }
    m.shards = j.at("shards").get<uint32_t>();
    for (const Json& table : j.at("tables")) m.tables.push_back(TableFromJson(table));
    if (const auto c = j.find("codebook"); c != j.end()) {
      absl::StatusOr<CodebookState> codebook = CodebookStateFromJson(*c, m.step);
      if (!codebook.ok()) return Annotate(codebook.status(), path.string());
      m.codebook = *codebook;
    }
    m.files = std::move(sealed.files);
    return m;
  } catch (const Json::exception& e) {
    return damaged(fmt::format("not a commit manifest: {}", e.what()));
  }
}

// Out of sight at once, off the disk then: half a commit must not have a commit's name.
absl::Status Delete(const fs::path& folder) {
  SAVIOR_FAILPOINT("prune.before_rename");
  const fs::path part = folder.string() + kUnfinished;
  std::error_code error;
  fs::rename(folder, part, error);
  if (error) return SystemError(error.value(), "renaming to " + part.string());
  SAVIOR_RETURN_IF_ERROR(SyncFolder(folder.parent_path()));
  SAVIOR_FAILPOINT("prune.before_removal");
  SAVIOR_RETURN_IF_ERROR(RemoveAll(part));
  SAVIOR_FAILPOINT("prune.after_removal");
  return absl::OkStatus();
}

}  // namespace

Json ToJson(const CodebookState& c) {
  Json json = {{"version", c.version},
               {"since_step", c.since_step},
               {"previous", c.previous},
               {"probation", c.probation},
               {"by_hand_only", c.by_hand_only}};
  if (c.encoder > 0 || c.previous_encoder > 0) {
    json["encoder"] = c.encoder;
    json["previous_encoder"] = c.previous_encoder;
  }
  if (c.builds > 0) {
    json["builds"] = c.builds;
    json["build"] = c.build;
    json["previous_build"] = c.previous_build;
  }
  return json;
}

absl::StatusOr<CodebookState> CodebookStateFromJson(const Json& j, int64_t step) {
  const auto bad = [](const char* field, const std::string& found, const std::string& wanted) {
    return absl::DataLossError(fmt::format("codebook.{} is {}, not {}", field, found, wanted));
  };
  // Json's own conversion would make a number of any other.
  const auto number = [&](const char* field, uint64_t most) -> absl::StatusOr<uint64_t> {
    const Json& value = j.at(field);
    if (value.is_number_unsigned() && value.get<uint64_t>() <= most) return value.get<uint64_t>();
    return bad(field, value.dump(), fmt::format("a number from 0 to {}", most));
  };
  CodebookState c;
  SAVIOR_ASSIGN_OR_RETURN(const uint64_t version, number("version", UINT32_MAX));
  SAVIOR_ASSIGN_OR_RETURN(const uint64_t since, number("since_step", static_cast<uint64_t>(step)));
  c.version = static_cast<uint32_t>(version);
  c.since_step = static_cast<int64_t>(since);
  for (const auto& [field, value] :
       {std::pair("probation", &c.probation), std::pair("by_hand_only", &c.by_hand_only)}) {
    // Commits from before a version could be gone back to say nothing of that.
    if (value == &c.by_hand_only && !j.contains(field)) continue;
    if (!j.at(field).is_boolean()) return bad(field, j.at(field).dump(), "true or false");
    *value = j.at(field).get<bool>();
  }
  SAVIOR_ASSIGN_OR_RETURN(const uint64_t previous, number("previous", UINT32_MAX));
  c.previous = static_cast<uint32_t>(previous);
  for (const auto& [field, value] :
       {std::pair("encoder", &c.encoder), std::pair("previous_encoder", &c.previous_encoder),
        std::pair("builds", &c.builds), std::pair("build", &c.build),
        std::pair("previous_build", &c.previous_build)}) {
    if (!j.contains(field)) continue;
    SAVIOR_ASSIGN_OR_RETURN(const uint64_t found, number(field, UINT32_MAX));
    *value = static_cast<uint32_t>(found);
  }
  // A refresh makes it one more or keeps it, and only a rollback makes it one less.
  const uint64_t most = uint64_t{c.encoder} + (previous > version ? 1 : 0);
  if (c.previous_encoder > most || c.encoder > uint64_t{c.previous_encoder} + 1) {
    return bad("previous_encoder", std::to_string(c.previous_encoder),
               fmt::format("that of encoder version {} or a neighbour", c.encoder));
  }
  for (const auto& [field, build] :
       {std::pair("build", c.build), std::pair("previous_build", c.previous_build)}) {
    if (build > c.builds) {
      return bad(field, std::to_string(build), fmt::format("one of {} builds", c.builds));
    }
  }
  if (c.probation && previous + 1 != version) {
    return bad("previous", std::to_string(previous),
               fmt::format("the one before version {}, which is on probation", version));
  }
  if (previous > version + 1) {
    return bad("previous", std::to_string(previous), fmt::format("at most {}", version + 1));
  }
  return c;
}

CodebookState RolledBack(const CodebookState& state) {
  return {.version = state.previous,
          .since_step = state.since_step,
          .previous = state.version,
          .by_hand_only = true,
          .encoder = state.previous_encoder,
          .previous_encoder = state.encoder,
          .builds = state.builds,
          .build = state.previous_build,
          .previous_build = state.build};
}

const char* CodebookFileOf(const CodebookState& state) {
  return state.previous > state.version ? kPreviousCodebookFile : kCodebookFile;
}

const char* EncoderFileOf(const CodebookState& state) {
  return state.previous_encoder > state.encoder ? kPreviousEncoderFile : kEncoderFile;
}

fs::path CommitFolder(const fs::path& commits, int64_t step) {
  return commits / fmt::format("{}{:012}", kPrefix, step);
}

fs::path UnfinishedCommit(const fs::path& commits, int64_t step) {
  return CommitFolder(commits, step).string() + kUnfinished;
}

CheckpointPlace PlaceOfCommit(const fs::path& commits, int64_t step) {
  const std::vector<fs::path> before = ListCommits(commits);
  return {.folder = UnfinishedCommit(commits, step),
          .base = before.empty() ? fs::path() : before.back()};
}

absl::StatusOr<fs::path> BeginCommit(const fs::path& commits, int64_t step) {
  const fs::path part = UnfinishedCommit(commits, step);
  SAVIOR_FAILPOINT("commit.before_begin");
  // First of all: they hold disk space, which may be what ended them.
  SAVIOR_RETURN_IF_ERROR(RemoveUnfinished(commits));
  std::error_code error;
  fs::create_directories(part, error);
  if (error) return SystemError(error.value(), "making " + part.string());
  SAVIOR_FAILPOINT("commit.after_begin");
  return part;
}

absl::StatusOr<Commit> PublishCommit(const fs::path& commits, CommitManifest manifest,
                                     DigestCache* digests) {
  const fs::path target = CommitFolder(commits, manifest.step);
  const fs::path part = UnfinishedCommit(commits, manifest.step);
  SAVIOR_FAILPOINT("commit.before_digests");
  SAVIOR_ASSIGN_OR_RETURN(manifest.files, ListFiles(part, digests));
  SAVIOR_FAILPOINT("commit.before_manifest");
  SAVIOR_RETURN_IF_ERROR(WriteFile(part / kManifestFile, Print(manifest)));
  SAVIOR_FAILPOINT("commit.before_replace");
  // The same step again (a run resumed at its end): the state is the same, the newer replaces the
  // older.
  SAVIOR_RETURN_IF_ERROR(RemoveAll(target));
  SAVIOR_RETURN_IF_ERROR(PublishFolder(part, target));
  SAVIOR_FAILPOINT("commit.after_publish");
  return Commit{target, std::move(manifest)};
}

absl::StatusOr<Commit> WriteCommit(const fs::path& commits, CommitManifest manifest,
                                   const std::function<absl::Status(const fs::path&)>& fill) {
  const int64_t step = manifest.step;
  const auto write = [&]() -> absl::StatusOr<Commit> {
    SAVIOR_ASSIGN_OR_RETURN(const fs::path part, BeginCommit(commits, step));
    SAVIOR_RETURN_IF_ERROR(fill(part));
    return PublishCommit(commits, std::move(manifest));
  };
  absl::StatusOr<Commit> written = write();
  if (written.ok()) return written;
  RemoveAll(UnfinishedCommit(commits, step)).IgnoreError();
  return Annotate(written.status(), "writing commit " + CommitFolder(commits, step).string());
}

absl::StatusOr<Commit> RepublishCommit(const fs::path& commits, int64_t step,
                                       const std::function<void(CommitManifest*)>& change) {
  const fs::path folder = CommitFolder(commits, step);
  SAVIOR_ASSIGN_OR_RETURN(Commit commit, OpenCommit(folder, /*digests=*/false));
  CommitManifest changed = commit.manifest;
  change(&changed);
  changed.step = step;
  changed.files = std::move(commit.manifest.files);
  // No folder of its own in between: a commit that replaces another of its step would have to take
  // the name from it first, and then neither has it for an instant.
  SAVIOR_RETURN_IF_ERROR(WriteFileAtomically(folder / kManifestFile, Print(changed)));
  return Commit{folder, std::move(changed)};
}

absl::StatusOr<Commit> OpenCommit(const fs::path& folder, bool digests) {
  const fs::path path = folder / kManifestFile;
  std::error_code error;
  if (!fs::exists(path, error)) {
    return absl::NotFoundError(
        fmt::format("{}: no commit here ({} is missing)", folder.string(), kManifestFile));
  }
  SAVIOR_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  SAVIOR_ASSIGN_OR_RETURN(CommitManifest manifest, ParseManifest(path, text));
  SAVIOR_RETURN_IF_ERROR(CheckFiles(folder, manifest.files, digests, nullptr, Cores()));
  return Commit{folder, std::move(manifest)};
}

std::vector<fs::path> ListCommits(const fs::path& commits) {
  std::vector<fs::path> folders;
  std::error_code error;
  for (auto it = fs::directory_iterator(commits, error); !error && it != fs::end(it);
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(kPrefix) && !name.ends_with(kUnfinished)) folders.push_back(it->path());
  }
  std::ranges::sort(folders);  // fixed-width steps: by name is by step
  return folders;
}

absl::StatusOr<Commit> NewestCommit(const fs::path& commits) {
  std::vector<fs::path> folders = ListCommits(commits);
  std::ranges::reverse(folders);
  absl::Status last =
      absl::NotFoundError(fmt::format("{}: no commit to go on from", commits.string()));
  for (const fs::path& folder : folders) {
    absl::StatusOr<Commit> commit = OpenCommit(folder, /*digests=*/true);
    if (commit.ok()) return commit;
    LOG(ERROR) << "damaged commit passed over: " << commit.status().message();
    last = absl::DataLossError(
        absl::StrCat("no whole commit; the oldest one's damage: ", commit.status().message()));
  }
  return last;
}

absl::Status KeepNewest(const fs::path& commits, int64_t keep,
                        const std::vector<fs::path>& pinned) {
  const std::vector<fs::path> folders = ListCommits(commits);
  for (size_t i = 0; i + static_cast<size_t>(keep) < folders.size(); ++i) {
    const auto same = [&](const fs::path& pin) { return pin.filename() == folders[i].filename(); };
    if (std::ranges::any_of(pinned, same)) continue;
    SAVIOR_RETURN_IF_ERROR(Delete(folders[i]));
  }
  return absl::OkStatus();
}

}  // namespace savior
