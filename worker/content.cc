#include "worker/content.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <glog/logging.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/random.h"
#include "worker/arm.h"
#include "worker/step_inputs.h"
#include "worker/tables.h"

namespace savior {
namespace {

constexpr uint64_t kShuffleStream = 0x5348;
constexpr size_t kContentsPerPut = 8192;
constexpr char kLearntUntil[] = "learnt_until";

EncoderOptions EncoderOptionsOf(const Config& config, const Arm& arm) {
  const Config::Encoder& e = config.encoder;
  EncoderOptions o;
  o.kind = arm.generic || e.kind == "pca" ? EncoderKind::kPca : EncoderKind::kSwingResidual;
  o.dim = static_cast<int>(e.dim);
  o.hidden = static_cast<int>(e.hidden);
  o.temperature = e.temperature;
  o.batch = static_cast<int>(e.batch);
  o.steps = static_cast<int>(e.steps);
  o.lr = e.lr;
  o.weight_decay = e.weight_decay;
  o.initial_alpha = e.initial_alpha;
  o.seed = static_cast<uint64_t>(config.seed);
  return o;
}

CodebookOptions CodebookOptionsOf(const Config& config) {
  const Config::Codebook& c = config.codebook;
  CodebookOptions o;
  o.levels = static_cast<int>(c.levels);
  o.codes = static_cast<int>(c.codes);
  o.latent = static_cast<int>(c.latent);
  o.hidden = static_cast<int>(c.hidden);
  o.beta = c.beta;
  o.contrastive_weight = c.contrastive_weight;
  o.kmeans_iterations = static_cast<int>(c.kmeans_iterations);
  o.finetune_steps = static_cast<int>(c.finetune_steps);
  o.lr = c.lr;
  o.seed = static_cast<uint64_t>(config.seed);
  return o;
}

SwingOptions SwingOptionsOf(const Config& config, Period training) {
  const Config::Encoder& e = config.encoder;
  SwingOptions o;
  o.period = training;
  o.users_per_item = static_cast<int>(e.swing_users_per_item);
  o.neighbours = static_cast<int>(e.swing_neighbours);
  o.min_count = static_cast<int>(e.swing_min_count);
  o.popularity_power = e.swing_popularity_power;
  o.seed = static_cast<uint64_t>(config.seed);
  return o;
}

// Contents whose first item was listed before `until`: what the codebook may learn from.
std::vector<int32_t> KnownContents(const TrainingLog& log, int64_t until) {
  std::vector<uint8_t> known(static_cast<size_t>(log.num_contents()));
  for (int64_t i = 0; i < log.num_items(); ++i) {
    const int32_t content = log.item_contents()[static_cast<size_t>(i)];
    if (content >= 0 && log.listed_at()[static_cast<size_t>(i)] < until)
      known[static_cast<size_t>(content)] = 1;
  }
  std::vector<int32_t> contents;
  for (size_t c = 0; c < known.size(); ++c) {
    if (known[c]) contents.push_back(static_cast<int32_t>(c));
  }
  return contents;
}

absl::StatusOr<std::unique_ptr<Codebook>> TrainOnKnown(const TrainingLog& log,
                                                       const std::vector<float>& z,
                                                       const std::vector<ContentPair>& pairs,
                                                       const Config& config, Period training) {
  const auto dim = static_cast<size_t>(config.encoder.dim);
  const std::vector<int32_t> known = KnownContents(log, training.until);
  if (known.empty()) {
    return absl::InvalidArgumentError(
        "no item with a vector was listed before the end of the training period: choose model.arm "
        "= \"base\" or "
        "bring item vectors");
  }
  std::vector<int32_t> row_of(static_cast<size_t>(log.num_contents()), -1);
  std::vector<float> rows;
  rows.reserve(known.size() * dim);
  for (size_t r = 0; r < known.size(); ++r) {
    row_of[static_cast<size_t>(known[r])] = static_cast<int32_t>(r);
    const float* from = z.data() + static_cast<size_t>(known[r]) * dim;
    rows.insert(rows.end(), from, from + dim);
  }
  std::vector<ContentPair> inside;
  for (ContentPair pair : pairs) {
    pair.trigger = row_of[static_cast<size_t>(pair.trigger)];
    pair.target = row_of[static_cast<size_t>(pair.target)];
    if (pair.trigger >= 0 && pair.target >= 0) inside.push_back(pair);
  }
  return TrainCodebook(rows, static_cast<int>(dim), {}, inside, CodebookOptionsOf(config));
}

}  // namespace

TensorFile SaveCodebook(const Content& content) {
  TensorFile file = content.codebook->Save();
  file.metadata[kLearntUntil] = absl::StrCat(content.learnt_until);
  return file;
}

absl::Status LoadCodebookInto(const TensorFile& file, int64_t otherwise, Content* content) {
  SAVIOR_ASSIGN_OR_RETURN(content->codebook, LoadCodebook(file));
  const auto found = file.metadata.find(kLearntUntil);
  content->learnt_until = otherwise;
  if (found != file.metadata.end() && !absl::SimpleAtoi(found->second, &content->learnt_until)) {
    return absl::DataLossError(absl::StrCat(kLearntUntil, " is \"", found->second, "\", no time"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Period> LearningPeriod(const Config& config, Period training) {
  if (config.codebook.learn_until.empty()) return training;
  const absl::StatusOr<int64_t> until = ParseDate(config.codebook.learn_until);
  if (!until.ok()) return Annotate(until.status(), "codebook.learn_until");
  if (*until <= training.from || *until > training.until) {
    return absl::InvalidArgumentError(
        absl::StrCat("codebook.learn_until = ", config.codebook.learn_until,
                     ": must lie after data.train_from = ", FormatDate(training.from),
                     " and not after data.train_until = ", FormatDate(training.until)));
  }
  return Period{training.from, *until};
}

absl::StatusOr<Content> TrainContent(const TrainingLog& log, const Config& config,
                                     Period training) {
  SAVIOR_ASSIGN_OR_RETURN(training, LearningPeriod(config, training));
  const Arm arm = ArmOf(config.model.arm);
  Content content;
  if (!arm.content && !arm.uses_codes()) return content;
  if (log.num_contents() == 0) {
    return absl::InvalidArgumentError("model.arm = \"" + config.model.arm +
                                      "\" needs item vectors and the data has none: bring "
                                      "item_vectors or choose model.arm = \"base\"");
  }
  int64_t vector_dims = 0;
  for (const Modality& modality : log.schema().modalities) vector_dims += modality.dim;
  if (config.encoder.dim > vector_dims) {
    return absl::InvalidArgumentError(
        absl::StrCat("encoder.dim = ", config.encoder.dim, ": must be <= ", vector_dims,
                     ", the length of the item vectors (all modalities together)"));
  }
  const EncoderOptions options = EncoderOptionsOf(config, arm);
  std::vector<ContentPair> pairs;
  if (options.kind == EncoderKind::kSwingResidual || arm.uses_codes()) {
    SAVIOR_ASSIGN_OR_RETURN(pairs, SwingPairs(log, SwingOptionsOf(config, training)));
    LOG(INFO) << "Swing: " << pairs.size() << " content pairs";
  }
  SAVIOR_ASSIGN_OR_RETURN(content.encoder, TrainEncoder(log, pairs, training.until, options));
  if (!arm.uses_codes()) return content;
  const std::vector<float> z = EncodeAll(log, *content.encoder);
  SAVIOR_ASSIGN_OR_RETURN(content.codebook, TrainOnKnown(log, z, pairs, config, training));
  content.learnt_until = training.until;
  content.figures = Measure(*content.codebook, z);
  for (size_t l = 0; l < content.figures->levels.size(); ++l) {
    const CodebookFigures::Level& level = content.figures->levels[l];
    LOG(INFO) << "codebook level " << l + 1 << ": perplexity " << level.perplexity << " of "
              << content.codebook->codes() << ", " << level.dead << " dead, largest share "
              << level.largest_share;
  }
  LOG(INFO) << "codebook: rq_mse " << content.figures->rq_mse << ", collision rate "
            << content.figures->collision_rate;
  return content;
}

absl::StatusOr<std::unique_ptr<Encoder>> RefreshEncoder(
    const TrainingLog& log, const Config& config, const Encoder& current, Period seen,
    uint64_t seed, const std::function<absl::Status()>& breathe) {
  if (config.refresh.encoder_steps == 0) return nullptr;
  EncoderOptions options = EncoderOptionsOf(config, ArmOf(config.model.arm));
  options.steps = static_cast<int>(config.refresh.encoder_steps);
  options.lr = config.refresh.encoder_lr;
  options.seed = seed;
  SAVIOR_ASSIGN_OR_RETURN(const std::vector<ContentPair> pairs,
                          SwingPairs(log, SwingOptionsOf(config, seen), breathe));
  return TuneEncoder(log, current, pairs, options, breathe);
}

std::vector<float> ContentRows(const TrainingLog& log, std::span<const int32_t> contents,
                               const Content& content, const FormerContent& former,
                               uint32_t version, const Config& config) {
  const ContentLayout layout = ContentLayout::Of(config);
  const size_t n = contents.size();
  std::vector<float> rows(n * layout.row());
  if (!content.encoder) return rows;
  const std::vector<float> z = EncodeContents(log, contents, *content.encoder);
  std::optional<std::vector<float>> of_former;
  if (former.encoder) of_former = EncodeContents(log, contents, *former.encoder);
  const std::vector<float>& former_z = of_former ? *of_former : z;
  const auto write_z = [&](uint32_t of, const std::vector<float>& from) {
    for (size_t c = 0; c < n; ++c) {
      std::copy_n(from.data() + c * layout.dim, layout.dim,
                  rows.data() + c * layout.row() + layout.z(of));
    }
  };
  write_z(version, z);
  if (layout.z_per_slot) write_z(version + 1, former_z);
  if (!content.codebook) return rows;

  std::vector<size_t> source(n);
  std::iota(source.begin(), source.end(), size_t{0});
  if (ArmOf(config.model.arm).shuffled_codes) {
    Random random(static_cast<uint64_t>(config.seed), kShuffleStream);
    for (size_t c = n; c > 1; --c) std::swap(source[c - 1], source[random.Below(c)]);
  }
  const std::vector<int32_t> codes = content.codebook->Quantise(z);
  const std::vector<int32_t> former_codes =
      former.codebook ? former.codebook->Quantise(former_z) : codes;
  for (const auto& [of, in] : {std::pair(version, &codes), std::pair(version + 1, &former_codes)}) {
    for (size_t c = 0; c < n; ++c) {
      for (size_t l = 0; l < layout.levels; ++l) {
        rows[c * layout.row() + layout.codes(of) + l] =
            static_cast<float>((*in)[source[c] * layout.levels + l]);
      }
    }
  }
  return rows;
}

absl::Status PutContents(const TrainingLog& log, std::span<const int32_t> contents,
                         std::span<const uint64_t> keys, const Content& content,
                         const FormerContent& former, uint32_t version, const Config& config,
                         EmbeddingStore& store) {
  if (!content.encoder || contents.empty()) return absl::OkStatus();
  const std::vector<float> rows = ContentRows(log, contents, content, former, version, config);
  const size_t width = store.tables()[kContentTable].dim;
  if (rows.size() != contents.size() * width) {
    return absl::FailedPreconditionError(
        absl::StrCat("table content: rows of ", width,
                     " floats have the codes of version 0 only: nothing can "
                     "be added to a commit from before a codebook had versions"));
  }
  const auto timeout = Milliseconds(config.ps.timeout_s);
  for (size_t begin = 0; begin < keys.size(); begin += kContentsPerPut) {
    const size_t count = std::min(kContentsPerPut, keys.size() - begin);
    const TablePut put = {kContentTable, keys.subspan(begin, count),
                          std::span(rows).subspan(begin * width, count * width)};
    SAVIOR_RETURN_IF_ERROR(store.Put({&put, 1}, DeadlineIn(timeout)));
  }
  return absl::OkStatus();
}

absl::Status PublishContent(const TrainingLog& log, const Content& content, const Config& config,
                            EmbeddingStore& store) {
  std::vector<int32_t> all(static_cast<size_t>(log.num_contents()));
  std::iota(all.begin(), all.end(), 0);
  return PutContents(log, all, ContentKeys(log), content, {}, 0, config, store);
}

}  // namespace savior
