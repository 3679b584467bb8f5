#include "worker/refresh/refresh_job.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <glog/logging.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "common/failpoint.h"
#include "common/random.h"
#include "worker/arm.h"
#include "worker/content.h"
#include "worker/eval/metrics.h"
#include "worker/model/codebook.h"
#include "worker/refresh/content_weights.h"
#include "worker/refresh/distil.h"
#include "worker/refresh/group_sums.h"
#include "worker/refresh/work_budget.h"
#include "worker/step_inputs.h"
#include "worker/tables.h"
#include "worker/trainer.h"

namespace savior {
namespace {

constexpr std::chrono::hours kPatience{24};
constexpr size_t kContentsPerCall = 4096;
// Pushes of steps from this many before a worker's next step on may be on their way. Who is at step
// S has the losses of S - 1 of all workers, each of which had its pushes up to S - 3 applied by
// then, whatever cluster.staleness lets pulls do.
constexpr int64_t kStepsUnderWay = 4;
// Beside training, which goes first where cores are short.
constexpr int kNice = 10;

PrefixRemap::Place PlaceOfPrefixes(const RefreshPlan& plan) {
  return {.table = kPrefixTable,
          .build_before = plan.build_in_use,
          .build_now = plan.build,
          .step = plan.step};
}

RemapKind KindOf(const std::string& remap) {
  if (remap == "hungarian") return RemapKind::kHungarian;
  if (remap == "index") return RemapKind::kIndex;
  if (remap == "zero") return RemapKind::kZero;
  return RemapKind::kConditionalMean;
}

// A worker's contents: numbers rank, rank + size, rank + 2 size, ...: a fair sample of all.
std::vector<size_t> ContentsOf(size_t contents, size_t rank, size_t size) {
  std::vector<size_t> own;
  for (size_t c = rank; c < contents; c += size) own.push_back(c);
  return own;
}

class Job {
 public:
  Job(const RefreshWorker& worker, const RefreshPlan& plan, std::optional<RefreshSnapshot> snapshot,
      const std::atomic<bool>* give_up)
      : log_(*worker.log),
        config_(*worker.config),
        store_(*worker.store),
        group_(*worker.group),
        training_step_(worker.step),
        plan_(plan),
        snapshot_(std::move(snapshot)),
        budget_(config_.refresh.cpu_share, give_up),
        layout_(ContentLayout::Of(config_)),
        dim_(layout_.dim),
        levels_(layout_.levels),
        prefixes_(PrefixesOf(config_)),
        width_(store_.tables()[kContentTable].dim) {}

  absl::StatusOr<RefreshResult> Run(const Codebook* in_use, const Encoder* encoder) {
    const auto start = SteadyClock::now();
    SAVIOR_ASSIGN_OR_RETURN(const std::unique_ptr<Codebook> codebook, ShareCodebook(in_use));
    SAVIOR_ASSIGN_OR_RETURN(std::unique_ptr<Encoder> next_encoder, ShareNextEncoder(encoder));
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<double> weights,
                            ContentWeights(log_, plan_.seen, &group_, &budget_));
    const size_t all_contents = weights.size();
    contents_ = ContentsOf(all_contents, group_.rank(), group_.size());
    SAVIOR_RETURN_IF_ERROR(Fetch());
    SAVIOR_RETURN_IF_ERROR(Encode(next_encoder.get()));
    std::vector<double> own;
    for (const size_t c : contents_) own.push_back(weights[c]);
    BuildOptions options;
    options.iterations = static_cast<int>(config_.refresh.iterations);
    options.hysteresis = config_.refresh.hysteresis;
    options.finetune.finetune_steps = static_cast<int>(config_.refresh.finetune_steps);
    options.finetune.lr = config_.refresh.finetune_lr;
    options.finetune.beta = config_.codebook.beta;
    options.finetune.seed = MixTwo(static_cast<uint64_t>(config_.seed), plan_.version);
    SAVIOR_FAILPOINT("refresh.building");
    SAVIOR_ASSIGN_OR_RETURN(
        CodebookBuild build,
        BuildCodebook(*codebook, {z_now(), own, codes_, z_}, options, &group_, &budget_));
    SAVIOR_FAILPOINT("refresh.built");
    SAVIOR_RETURN_IF_ERROR(Publish(build.codes));
    SAVIOR_RETURN_IF_ERROR(group_.Allgather("published", DeadlineIn(kPatience)).status());
    SAVIOR_FAILPOINT("refresh.published");
    RefreshResult result;
    result.encoder = std::move(next_encoder);
    result.figures.build = build.figures;
    result.joint = {levels_, num_codes(), std::move(build.joint)};
    // All have the same figures: what these refuse costs no rows.
    result.verdict = CodebookGates(build.figures, result.joint);
    if (result.verdict.ok() && prefixes_ > 0) {
      SAVIOR_ASSIGN_OR_RETURN(
          result.prefixes, PrefixRemap::Share({levels_, num_codes(), codes_, build.codes, own},
                                              KindOf(config_.refresh.remap), config_.refresh.lambda,
                                              &group_, &budget_));
      SAVIOR_RETURN_IF_ERROR(MakePrefixes(&result));
    }
    if (snapshot_ && result.verdict.ok()) {
      SAVIOR_RETURN_IF_ERROR(Lead(weights, std::move(build), &result));
    }
    SAVIOR_ASSIGN_OR_RETURN(
        const std::vector<std::string> verdicts,
        group_.Allgather(std::string(result.verdict.message()), DeadlineIn(kPatience)));
    // The lead's, who is worker 0.
    if (!verdicts[0].empty()) result.verdict = absl::FailedPreconditionError(verdicts[0]);
    // Once more: what was pushed during the lead's part need not be made at the switch.
    if (result.verdict.ok() && prefixes_ > 0) SAVIOR_RETURN_IF_ERROR(MakePrefixes(&result));
    result.figures.cpu_s = budget_.cpu_seconds();
    result.figures.wall_s = SecondsSince(start);
    return result;
  }

 private:
  // The file that the lead gives, others nothing, at all workers; null: it gave none.
  absl::StatusOr<std::optional<TensorFile>> OfLead(const std::optional<TensorFile>& mine) {
    std::string bytes;
    if (mine) {
      SAVIOR_ASSIGN_OR_RETURN(bytes, EncodeTensors(*mine));
    }
    SAVIOR_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            group_.Allgather(bytes, DeadlineIn(kPatience)));
    if (all[0].empty()) return std::nullopt;
    return DecodeTensors(all[0]);
  }

  absl::StatusOr<std::unique_ptr<Codebook>> ShareCodebook(const Codebook* in_use) {
    std::optional<TensorFile> mine;
    if (in_use != nullptr) mine = in_use->Save();
    SAVIOR_ASSIGN_OR_RETURN(const std::optional<TensorFile> file, OfLead(mine));
    if (!file) return absl::FailedPreconditionError("worker 0 has no codebook in use");
    return LoadCodebook(*file);
  }

  // The lead trains it; null: the encoder stays.
  absl::StatusOr<std::unique_ptr<Encoder>> ShareNextEncoder(const Encoder* in_use) {
    if (!config_.encoder.refreshable) return nullptr;
    std::optional<TensorFile> mine;
    if (in_use != nullptr) {
      SAVIOR_ASSIGN_OR_RETURN(
          const std::unique_ptr<Encoder> next,
          RefreshEncoder(log_, config_, *in_use, plan_.seen,
                         MixTwo(static_cast<uint64_t>(config_.seed), plan_.version),
                         [this] { return budget_.Spend(); }));
      if (next) mine = next->Save();
    }
    SAVIOR_ASSIGN_OR_RETURN(const std::optional<TensorFile> file, OfLead(mine));
    if (!file) return nullptr;
    return LoadEncoder(*file);
  }

  // z of this worker's contents under the next version, if that has another encoder.
  absl::Status Encode(const Encoder* next) {
    if (next == nullptr) return absl::OkStatus();
    z_now_.reserve(z_.size());
    std::vector<int32_t> some;
    for (size_t begin = 0; begin < contents_.size(); begin += kContentsPerCall) {
      some.clear();
      for (size_t i = begin; i < std::min(begin + kContentsPerCall, contents_.size()); ++i) {
        some.push_back(static_cast<int32_t>(contents_[i]));
      }
      const std::vector<float> z = EncodeContents(log_, some, *next);
      z_now_.insert(z_now_.end(), z.begin(), z.end());
      SAVIOR_RETURN_IF_ERROR(budget_.Spend());
    }
    return absl::OkStatus();
  }

  // z and codes in use of this worker's contents, from the content table.
  absl::Status Fetch() {
    const std::vector<uint64_t> all = ContentKeys(log_);
    for (const size_t c : contents_) keys_.push_back(all[c]);
    z_.reserve(keys_.size() * dim_);
    codes_.reserve(keys_.size() * levels_);
    std::vector<float> rows;
    for (size_t begin = 0; begin < keys_.size(); begin += kContentsPerCall) {
      const size_t count = std::min(kContentsPerCall, keys_.size() - begin);
      rows.resize(count * width_);
      const TablePull pull = {kContentTable, std::span(keys_).subspan(begin, count), rows};
      SAVIOR_RETURN_IF_ERROR(store_.Pull({&pull, 1}, StoreDeadline(config_)));
      for (size_t i = 0; i < count; ++i) {
        const float* const row = rows.data() + i * width_;
        const float* const z = row + layout_.z(plan_.version - 1);
        z_.insert(z_.end(), z, z + dim_);
        for (size_t l = 0; l < levels_; ++l) {
          codes_.push_back(static_cast<int32_t>(row[layout_.codes(plan_.version - 1) + l]));
        }
      }
      SAVIOR_RETURN_IF_ERROR(budget_.Spend());
    }
    return absl::OkStatus();
  }

  absl::Status Publish(const std::vector<int32_t>& codes) {
    std::vector<float> rows;
    for (size_t begin = 0; begin < keys_.size(); begin += kContentsPerCall) {
      const size_t count = std::min(kContentsPerCall, keys_.size() - begin);
      rows.assign(count * width_, 0.0f);
      for (size_t i = 0; i < count; ++i) {
        float* const row = rows.data() + i * width_;
        const auto write = [&](uint32_t version, const std::vector<float>& z,
                               const std::vector<int32_t>& of) {
          std::copy_n(z.data() + (begin + i) * dim_, dim_, row + layout_.z(version));
          for (size_t l = 0; l < levels_; ++l) {
            row[layout_.codes(version) + l] = static_cast<float>(of[(begin + i) * levels_ + l]);
          }
        };
        write(plan_.version - 1, z_, codes_);
        write(plan_.version, z_now(), codes);
      }
      const TablePut put = {kContentTable, std::span(keys_).subspan(begin, count), rows};
      SAVIOR_RETURN_IF_ERROR(store_.Put({&put, 1}, StoreDeadline(config_)));
      SAVIOR_RETURN_IF_ERROR(budget_.Spend());
      if (begin == 0) SAVIOR_FAILPOINT("refresh.publishing");
    }
    return absl::OkStatus();
  }

  absl::Status MakePrefixes(RefreshResult* result) {
    SAVIOR_ASSIGN_OR_RETURN(
        const std::vector<int64_t> since,
        NumbersOf(&group_, training_step_->load() - kStepsUnderWay, DeadlineIn(kPatience)));
    result->prefixes_since = std::ranges::min(since);
    SAVIOR_ASSIGN_OR_RETURN(const size_t made,
                            result->prefixes.Make(store_, PlaceOfPrefixes(plan_), std::nullopt,
                                                  Milliseconds(config_.ps.timeout_s),
                                                  [this] { return budget_.Spend(); }));
    SAVIOR_FAILPOINT("refresh.prefixes_made");
    auto of_all = static_cast<double>(made);
    SAVIOR_RETURN_IF_ERROR(SumOverGroup(&group_, {&of_all, 1}, DeadlineIn(kPatience)));
    result->figures.prefixes = static_cast<int64_t>(of_all);
    return absl::OkStatus();
  }

  absl::Status Lead(const std::vector<double>& weights, CodebookBuild build,
                    RefreshResult* result) {
    result->shares = SharesOf(result->joint, KindOf(config_.refresh.remap), config_.refresh.lambda);
    result->from = std::move(snapshot_->align);
    const OptimizerKind optimizer = store_.tables()[kAlignTable].optimizer.kind;
    result->made = Remapped(result->from, result->shares, result->joint, optimizer);
    SAVIOR_RETURN_IF_ERROR(Preserve(weights, build.codes, result));
    SAVIOR_RETURN_IF_ERROR(CarryOver(*result, config_, plan_.version, plan_.step, store_));
    SAVIOR_FAILPOINT("refresh.remapped");
    result->codebook = std::move(build.codebook);
    if (*result->figures.preserved_r2 < config_.refresh.min_preserved_r2) {
      result->verdict = absl::FailedPreconditionError(absl::StrFormat(
          "preserved R2 of what alignment adds is %.3f, below refresh.min_preserved_r2 = %g",
          *result->figures.preserved_r2, config_.refresh.min_preserved_r2));
    } else {
      result->verdict = ReplayGate(&result->figures);
    }
    return budget_.Spend();
  }

  // Distils, where the configuration says so, and measures on other contents.
  absl::Status Preserve(const std::vector<double>& weights, const std::vector<int32_t>& codes,
                        RefreshResult* result) {
    const bool mlp = ArmOf(config_.model.arm).alignment;
    const bool hybrid = HasOwnVectors(config_);
    const size_t parts = levels_ + prefixes_ + (hybrid ? 1 : 0);
    Fusion fusion{dim_, parts, 0, {}, {}};
    if (mlp) {
      SAVIOR_ASSIGN_OR_RETURN(fusion, FusionOf(snapshot_->dense, dim_, parts));
    }
    AlignSample samples[2];  // to distil with, and to measure on
    FillSamples(weights, codes, result->encoder != nullptr && mlp, samples);
    const AlignSample& others = samples[samples[1].size() > 0 ? 1 : 0];
    AlignSample measured = others;
    SAVIOR_RETURN_IF_ERROR(ReadPrefixes(parts - levels_, &measured));
    if (result->encoder) result->figures.z_moved = MovedBy();
    const AlignRows before = {num_codes(), result->from.weights};
    AlignRows now = {num_codes(), std::move(result->made.weights)};
    if (Distils(config_)) {
      const DistilOptions options = {
          .steps = static_cast<int>(config_.refresh.distil_steps),
          .lr = config_.refresh.distil_lr,
          .seed = MixTwo(static_cast<uint64_t>(config_.seed), plan_.version)};
      AlignRows distilled = now;
      SAVIOR_RETURN_IF_ERROR(Distil(fusion, before, samples[0], options, &distilled,
                                    [this] { return budget_.Spend(); }));
      // Few contents for many rows: what fits these and no others is not taken. Without rows of
      // prefixes, which are what they are when they are read: the choice has to repeat.
      if (PreservedR2(fusion, before, distilled, others) >
          PreservedR2(fusion, before, now, others)) {
        now = std::move(distilled);
      }
    }
    result->figures.preserved_r2 =
        measured.size() > 0 ? PreservedR2(fusion, before, now, measured) : 1.0;
    result->made.weights = std::move(now.rows);
    return absl::OkStatus();
  }

  // Rows of prefixes that the snapshot does not have are left zero.
  void FillSamples(const std::vector<double>& weights, const std::vector<int32_t>& codes,
                   bool z_changes, std::span<AlignSample, 2> samples) const {
    const size_t width = prefixes_ * dim_;
    for (size_t s = 0; s < snapshot_->contents.size(); ++s) {
      const auto content = static_cast<size_t>(snapshot_->contents[s]);
      const size_t place = (content - group_.rank()) / group_.size();
      AlignSample& sample = samples[s % 2];
      sample.levels = levels_;
      sample.weights.push_back(weights[content]);
      for (size_t l = 0; l < levels_; ++l) {
        sample.before.push_back(codes_[place * levels_ + l]);
        sample.now.push_back(codes[place * levels_ + l]);
      }
      const auto add_rest = [&sample](std::span<const float> row) {
        sample.rest.insert(sample.rest.end(), row.begin(), row.end());
      };
      if (s % 2 == 0 && !snapshot_->prefixes.empty()) {
        add_rest(std::span(snapshot_->prefixes).subspan(s / 2 * width, width));
      } else {
        sample.rest.resize(sample.rest.size() + width);
      }
      if (!snapshot_->own.empty()) add_rest(std::span(snapshot_->own).subspan(s * dim_, dim_));
      // Arms that take codes without z have nothing to make up for.
      for (size_t d = 0; z_changes && d < dim_; ++d) {
        sample.z_change.push_back(z_[place * dim_ + d] - z_now_[place * dim_ + d]);
      }
    }
  }

  // Of the sample, as they are: before and after.
  absl::Status ReadPrefixes(size_t rest, AlignSample* sample) {
    if (prefixes_ == 0) return absl::OkStatus();
    sample->rest_now = sample->rest;
    for (const auto& [codes, build, to] :
         {std::tuple(&sample->before, plan_.build_in_use, &sample->rest),
          std::tuple(&sample->now, plan_.build, &sample->rest_now)}) {
      SAVIOR_ASSIGN_OR_RETURN(const std::vector<float> rows,
                              PrefixRowsOf(*codes, levels_, num_codes(), kPrefixTable, build,
                                           store_, StoreDeadline(config_)));
      for (size_t i = 0; i < sample->size(); ++i) {
        std::copy_n(&rows[i * prefixes_ * dim_], prefixes_ * dim_, &(*to)[i * rest * dim_]);
      }
    }
    return absl::OkStatus();
  }

  size_t num_codes() const { return static_cast<size_t>(config_.codebook.codes); }
  const std::vector<float>& z_now() const { return z_now_.empty() ? z_ : z_now_; }

  // Mean |z' - z|^2 over this worker's contents.
  double MovedBy() const {
    double sum = 0;
    for (size_t i = 0; i < z_.size(); ++i) {
      const double change = static_cast<double>(z_now_[i]) - z_[i];
      sum += change * change;
    }
    return contents_.empty() ? 0.0 : sum / static_cast<double>(contents_.size());
  }

  absl::Status CodebookGates(const BuildFigures& build, const CodeJoint& joint) const {
    const auto refuse = [](const std::string& what) { return absl::FailedPreconditionError(what); };
    const auto codes = static_cast<double>(levels_ * joint.codes);
    double dead = 0, dead_before = 0;
    for (const CodebookFigures::Level& level : build.levels) dead += level.dead;
    for (size_t l = 0; l < levels_; ++l) {
      for (size_t before = 0; before < joint.codes; ++before) {
        double weight = 0;
        for (size_t now = 0; now < joint.codes; ++now) weight += joint.at(l, now, before);
        dead_before += weight <= 0.0;
      }
    }
    const Config::Refresh& r = config_.refresh;
    if (build.rq_mse > r.max_error_ratio * build.rq_mse_before) {
      return refuse(
          absl::StrFormat("the new codebook's error, %g, is %.3f times the old one's, above "
                          "refresh.max_error_ratio = %g",
                          build.rq_mse, build.rq_mse / build.rq_mse_before, r.max_error_ratio));
    }
    // A catalogue smaller than its codebook always has dead ones.
    if (dead / codes > r.max_dead_share && dead > dead_before) {
      return refuse(
          absl::StrFormat("%.1f%% of the new codes are dead, above refresh.max_dead_share = %g",
                          100 * dead / codes, r.max_dead_share));
    }
    if (build.churn[0] > r.max_churn) {
      return refuse(absl::StrFormat(
          "%.1f%% of the contents change their first code, above refresh.max_churn = %g",
          100 * build.churn[0], r.max_churn));
    }
    return absl::OkStatus();
  }

  // The click AUC of the last hours with either version's codes and rows, all else equal.
  absl::Status ReplayGate(RefreshFigures* figures) {
    if (config_.refresh.replay_hours <= 0) return absl::OkStatus();
    SAVIOR_ASSIGN_OR_RETURN(figures->auc_before, Replay(plan_.version - 1));
    SAVIOR_ASSIGN_OR_RETURN(figures->auc_after, Replay(plan_.version));
    if (!figures->auc_before || !figures->auc_after) return absl::OkStatus();
    const double loss = 100 * (*figures->auc_before - *figures->auc_after);
    if (loss <= config_.refresh.max_auc_loss) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrFormat(
        "replay of the last %g hours loses %.3f points of AUC, above refresh.max_auc_loss = %g",
        config_.refresh.replay_hours, loss, config_.refresh.max_auc_loss));
  }

  absl::StatusOr<std::optional<double>> Replay(uint32_t version) {
    Period period = plan_.seen;
    const auto seconds = static_cast<int64_t>(config_.refresh.replay_hours * 3600);
    period.from = std::max(period.from, period.until - seconds);
    SAVIOR_ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(config_, &log_, &store_, period));
    SAVIOR_RETURN_IF_ERROR(trainer->dense().Load(snapshot_->dense));
    SAVIOR_RETURN_IF_ERROR(
        trainer->UseCodebook(version, version == plan_.version ? plan_.build : plan_.build_in_use));
    SAVIOR_ASSIGN_OR_RETURN(const Predictions predictions, trainer->Predict(period));
    SAVIOR_RETURN_IF_ERROR(budget_.Spend());
    return Auc(predictions.p_ctr, predictions.clicks);
  }

  const TrainingLog& log_;
  const Config& config_;
  EmbeddingStore& store_;
  Group& group_;
  const std::atomic<int64_t>* const training_step_;
  const RefreshPlan plan_;
  std::optional<RefreshSnapshot> snapshot_;
  WorkBudget budget_;
  const ContentLayout layout_;
  const size_t dim_, levels_, prefixes_, width_;
  std::vector<size_t> contents_;  // this worker's
  std::vector<uint64_t> keys_;
  std::vector<float> z_;        // in use
  std::vector<int32_t> codes_;  // in use
  std::vector<float> z_now_;    // of the next version; empty: the same
};

}  // namespace

absl::StatusOr<RefreshResult> RunRefreshJob(const RefreshWorker& worker, const RefreshPlan& plan,
                                            std::optional<RefreshSnapshot> snapshot,
                                            const std::atomic<bool>* give_up) {
  // Of this thread only: Linux keeps it per thread. Where it is refused the share still holds.
  if (setpriority(PRIO_PROCESS, 0, kNice) != 0) VLOG(1) << "refresh: no lower priority";
  return Job(worker, plan, std::move(snapshot), give_up).Run(worker.codebook, worker.encoder);
}

absl::Status CarryOver(const RefreshResult& result, const Config& config, uint32_t version,
                       int64_t step, EmbeddingStore& store) {
  SAVIOR_ASSIGN_OR_RETURN(const AlignTable now,
                          ReadAlignTable(store, config, version - 1, StoreDeadline(config)));
  const OptimizerKind optimizer = store.tables()[kAlignTable].optimizer.kind;
  return WriteAlignTable(
      store, version, step,
      CarriedOver(result.made, result.from, now, result.shares, result.joint, optimizer),
      StoreDeadline(config));
}

absl::StatusOr<size_t> CarryPrefixesOver(const RefreshResult& result, const Config& config,
                                         const RefreshPlan& plan, std::span<const uint64_t> changed,
                                         EmbeddingStore& store) {
  return result.prefixes.Make(store, PlaceOfPrefixes(plan), changed,
                              Milliseconds(config.ps.timeout_s), [] { return absl::OkStatus(); });
}

}  // namespace savior
