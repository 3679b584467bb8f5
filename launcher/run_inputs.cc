#include "launcher/run_inputs.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <glog/logging.h>

#include <string>
#include <utility>

#include "common/tensor_file.h"
#include "launcher/commit.h"
#include "worker/data/log_manifest.h"

namespace savior {
namespace {

absl::StatusOr<std::vector<Bucket>> BucketsOf(const Config& config) {
  std::vector<BucketSpec> specs;
  for (const std::string& name : config.eval.bucket_order())
    specs.push_back({name, config.eval.buckets.at(name)});
  return ParseBuckets(specs);
}

}  // namespace

absl::StatusOr<RunInputs> RunInputs::Open(const Config& config) {
  if (config.exports.every_s > 0 && config.exports.dir.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("export.every_s = {}: where to? Set export.dir, too", config.exports.every_s));
  }
  RunInputs inputs;
  SAVIOR_ASSIGN_OR_RETURN(inputs.buckets, BucketsOf(config));
  SAVIOR_ASSIGN_OR_RETURN(inputs.periods, PeriodsOf(config));
  SAVIOR_ASSIGN_OR_RETURN(inputs.log, OpenOrPrepare(config));
  return inputs;
}

absl::Status RunInputs::CheckPeriods() const {
  const auto requests = [this](Period period) {
    int64_t n = 0;
    for (const DayInfo& day : log->days()) {
      if (period.from <= day.start && day.start < period.until) n += day.requests;
    }
    return n;
  };
  const std::string days = log->days().empty()
                               ? "the data has no requests at all"
                               : fmt::format("the data's requests are from {} to {}",
                                             FormatDate(log->days().front().start),
                                             FormatDate(log->days().back().start));
  if (requests(periods.training) == 0) {
    return absl::InvalidArgumentError(fmt::format(
        "no requests to train on from data.train_from = {} until data.train_until = {}: {}",
        FormatDate(periods.training.from), FormatDate(periods.training.until), days));
  }
  if (const int64_t ends = log->days().back().start + kSecondsPerDay;
      ends < periods.training.until) {
    LOG(WARNING) << "data.train_until = " << FormatDate(periods.training.until)
                 << " lies beyond the data: " << days << "; with train_until = " << FormatDate(ends)
                 << " the run could go on over days that are still to come (docs/datasets.md)";
  }
  if (requests(periods.evaluation) == 0) {
    LOG(WARNING) << "no requests to score from data.eval_from = "
                 << FormatDate(periods.evaluation.from)
                 << " until data.eval_until = " << FormatDate(periods.evaluation.until) << ": "
                 << days;
  }
  return absl::OkStatus();
}

absl::Status LoadDense(const std::filesystem::path& commit, Trainer* trainer) {
  const std::filesystem::path file = commit / kDenseFile;
  SAVIOR_ASSIGN_OR_RETURN(const TensorFile dense, ReadTensorFile(file));
  return Annotate(trainer->dense().Load(dense), file.string());
}

void UseThreads(const Config& config) {
  at::set_num_threads(static_cast<int>(config.train.threads));
}

}  // namespace savior
