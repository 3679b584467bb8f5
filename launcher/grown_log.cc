#include "launcher/grown_log.h"

#include <fmt/format.h>
#include <glog/logging.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "common/files.h"
#include "common/tensor_file.h"
#include "worker/arm.h"
#include "worker/step_inputs.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<LogProof> ReadProof(const Commit& commit) {
  const fs::path path = commit.folder / kLogProofFile;
  SAVIOR_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  return DecodeProof(path, bytes);
}

// The commit's training period, as its configuration has it.
absl::StatusOr<std::pair<Config, Period>> TrainedBy(const Commit& commit) {
  SAVIOR_ASSIGN_OR_RETURN(Config config, LoadConfig((commit.folder / kResolvedFile).string(), {}));
  SAVIOR_ASSIGN_OR_RETURN(const Periods periods, PeriodsOf(config));
  return std::pair(std::move(config), periods.training);
}

}  // namespace

absl::StatusOr<GrownLog> CompareLogs(const Commit& commit, const Config& config,
                                     const TrainingLog& log, Period trained) {
  const bool same = commit.manifest.log_fingerprint == log.fingerprint();
  const bool proved = fs::exists(commit.folder / kLogProofFile);
  const auto refuse = [&](std::string_view why) {
    return absl::FailedPreconditionError(
        fmt::format("{} was trained on a training log with fingerprint {}; data.raw = {} now has "
                    "{}, which is not that log with more days and items: {}",
                    commit.folder.string(), commit.manifest.log_fingerprint, config.data.raw,
                    log.fingerprint(), why));
  };
  if (!same && !proved) {
    return refuse(
        "or so it must be assumed, since this commit is from before logs could grow. Go on from "
        "the same data, for one commit at least, or use another run.dir");
  }
  GrownLog grown;
  std::optional<LogProof> former;
  if (proved) {
    SAVIOR_ASSIGN_OR_RETURN(former, ReadProof(commit));
    if (same && former->trained == trained) {
      grown.proof = *std::move(former);
      return grown;
    }
  }
  SAVIOR_ASSIGN_OR_RETURN(grown.proof, ProveLog(log, trained));
  if (same) return grown;
  if (const absl::Status status = CheckGrown(*former, grown.proof, log); !status.ok()) {
    return refuse(fmt::format(
        "{}. What a run has trained on has to stay as it was: put it back, or use another run.dir",
        std::string(status.message())));
  }
  grown.new_contents = NewContents(*former, log);
  LOG(INFO) << fmt::format(
      "the training log has grown since {}: {} items and {} distinct contents are new",
      commit.folder.string(), grown.proof.items.size() - former->items.size(),
      grown.new_contents.size());
  return grown;
}

absl::StatusOr<std::vector<int64_t>> TrainedUntil(const Commit& commit, const Config& config,
                                                  Period training) {
  SAVIOR_ASSIGN_OR_RETURN(const auto former, TrainedBy(commit));
  std::vector<int64_t> ends = commit.manifest.trained_until;
  if (ends.empty()) ends.push_back(former.second.until);
  if (training.until < ends.back()) {
    return absl::FailedPreconditionError(fmt::format(
        "data.train_until = {}: the training period of {} ends at {} already, and can only grow: "
        "give that day or a later one, or use another run.dir",
        FormatDate(training.until), commit.folder.string(), FormatDate(ends.back())));
  }
  if (training.until > ends.back()) ends.push_back(training.until);
  const int64_t epochs = std::max(former.first.train.epochs, config.train.epochs);
  if (ends.size() > 1 && epochs != 1) {
    return absl::FailedPreconditionError(fmt::format(
        "train.epochs = {} and a training period that has grown from data.train_until = {} to {}: "
        "a run that goes on over new days reads each day once. Use train.epochs = 1 from its start "
        "on, or another run.dir",
        epochs, FormatDate(ends.front()), FormatDate(ends.back())));
  }
  return ends;
}

absl::Status CheckGoesOn(const Commit& commit, const Config& config, const RunInputs& inputs) {
  const Period training = inputs.periods.training;
  SAVIOR_RETURN_IF_ERROR(TrainedUntil(commit, config, training).status());
  return CompareLogs(commit, config, *inputs.log, training).status();
}

Segments SegmentsOf(Period training, std::vector<int64_t> ends) {
  Segments segments(training);
  if (!ends.empty()) ends.pop_back();
  segments.cuts = std::move(ends);
  return segments;
}

absl::StatusOr<Content> ContentOf(const Commit& commit, int64_t learnt_until) {
  Content content;
  const fs::path encoder = commit.folder / EncoderFileOf(commit.manifest.codebook);
  if (fs::exists(encoder)) {
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(encoder));
    SAVIOR_ASSIGN_OR_RETURN(content.encoder, LoadEncoder(file));
  }
  const fs::path codebook = commit.folder / CodebookFileOf(commit.manifest.codebook);
  if (fs::exists(codebook)) {
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file, ReadTensorFile(codebook));
    SAVIOR_RETURN_IF_ERROR(LoadCodebookInto(file, learnt_until, &content));
  }
  return content;
}

absl::Status AddContents(const Commit& commit, const Config& config, const TrainingLog& log,
                         const Content& content, std::span<const int32_t> contents,
                         std::span<const uint64_t> keys, EmbeddingStore& store) {
  // Permuted among themselves, few of them would have their own codes after all.
  if (ArmOf(config.model.arm).shuffled_codes && !contents.empty()) {
    return absl::FailedPreconditionError(
        fmt::format("model.arm = {}: this control permutes the codes of the items that it began "
                    "with: none can be added to it. Train another run over all of them",
                    config.model.arm));
  }
  FormerContent former;
  const CodebookState& state = commit.manifest.codebook;
  if (state.probation) {
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file,
                            ReadTensorFile(commit.folder / kPreviousCodebookFile));
    SAVIOR_ASSIGN_OR_RETURN(former.codebook, LoadCodebook(file));
  }
  if (KeepsFormerEncoder(state)) {
    SAVIOR_ASSIGN_OR_RETURN(const TensorFile file,
                            ReadTensorFile(commit.folder / kPreviousEncoderFile));
    SAVIOR_ASSIGN_OR_RETURN(former.encoder, LoadEncoder(file));
  }
  return PutContents(log, contents, keys, content, former, state.version, config, store);
}

std::vector<uint64_t> KeysOf(const TrainingLog& log, std::span<const int32_t> contents) {
  const std::vector<uint64_t> all = ContentKeys(log);
  std::vector<uint64_t> keys;
  keys.reserve(contents.size());
  for (const int32_t content : contents) keys.push_back(all[static_cast<size_t>(content)]);
  return keys;
}

absl::StatusOr<int64_t> CatchUp(const Commit& commit, const Config& config, const TrainingLog& log,
                                EmbeddingStore& store) {
  if (commit.manifest.log_fingerprint == log.fingerprint()) return 0;
  SAVIOR_ASSIGN_OR_RETURN(const auto trained, TrainedBy(commit));
  SAVIOR_ASSIGN_OR_RETURN(const GrownLog grown, CompareLogs(commit, config, log, trained.second));
  if (grown.new_contents.empty()) return 0;
  SAVIOR_ASSIGN_OR_RETURN(const Content content, ContentOf(commit, trained.second.until));
  if (!content.encoder) return 0;
  SAVIOR_RETURN_IF_ERROR(AddContents(commit, config, log, content, grown.new_contents,
                                     KeysOf(log, grown.new_contents), store));
  return static_cast<int64_t>(grown.new_contents.size());
}

}  // namespace savior
