// The engine's FaultInjectionTestFS with calls on top that fail: those of one kind on one kind of file, on whichever thread. By
// itself it fails everything, or what one thread asks for.

#pragma once

#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "env/io_posix.h"
#include "rocksdb/file_system.h"
#include "utilities/fault_injection_fs.h"

namespace powerloss {

using ROCKSDB_NAMESPACE::DataVerificationInfo;
using ROCKSDB_NAMESPACE::FaultInjectionTestFS;
using ROCKSDB_NAMESPACE::FileOptions;
using ROCKSDB_NAMESPACE::FSRandomAccessFile;
using ROCKSDB_NAMESPACE::FSRandomAccessFileOwnerWrapper;
using ROCKSDB_NAMESPACE::FSReadRequest;
using ROCKSDB_NAMESPACE::FSSequentialFile;
using ROCKSDB_NAMESPACE::FSSequentialFileOwnerWrapper;
using ROCKSDB_NAMESPACE::FSWritableFile;
using ROCKSDB_NAMESPACE::FSWritableFileOwnerWrapper;
using ROCKSDB_NAMESPACE::IODebugContext;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::IOStatus;
using ROCKSDB_NAMESPACE::Slice;

// Both as lib.rs numbers them.
enum class Files : uint8_t { kLog, kTable, kBlob, kList, kOther };
enum class Call : uint8_t { kWrite, kSync, kRead };

struct Fault {
  Files files;
  Call call;
  uint64_t passing;  // calls that still pass
  uint64_t times;    // calls that fail after those
  int error;         // what the system says
};

// What fails, and how many calls there were.
class Faults {
 public:
  void Inject(const Fault& fault) {
    std::lock_guard<std::mutex> lock(mutex_);
    fault_ = fault;
    met_ = 0;
  }

  void Mend() {
    std::lock_guard<std::mutex> lock(mutex_);
    fault_.reset();
  }

  uint64_t Met() {
    std::lock_guard<std::mutex> lock(mutex_);
    return met_;
  }

  uint64_t Calls(Files files, Call call) {
    std::lock_guard<std::mutex> lock(mutex_);
    return calls_[{files, call}];
  }

  // Whether writes of tables wait.
  void HoldTables(bool held) {
    std::lock_guard<std::mutex> lock(mutex_);
    tables_held_ = held;
    let_go_.notify_all();
  }

  // Counts the call, and fails it if it is its turn, in the words that the engine has for such a failure.
  IOStatus Meet(Call call, const std::string& path) {
    std::unique_lock<std::mutex> lock(mutex_);
    Files files = KindOf(path);
    if (files == Files::kTable && call == Call::kWrite) let_go_.wait(lock, [&] { return !tables_held_; });
    ++calls_[{files, call}];
    if (!fault_ || fault_->files != files || fault_->call != call) return IOStatus::OK();
    if (fault_->passing > 0) {
      --fault_->passing;
      return IOStatus::OK();
    }
    if (fault_->times == 0) return IOStatus::OK();
    --fault_->times;
    ++met_;
    return ROCKSDB_NAMESPACE::IOError(Words(call), path, fault_->error);
  }

 private:
  static Files KindOf(const std::string& path) {
    std::string_view name(path);
    name.remove_prefix(name.rfind('/') + 1);
    if (name.ends_with(".log")) return Files::kLog;
    if (name.ends_with(".sst")) return Files::kTable;
    if (name.ends_with(".blob")) return Files::kBlob;
    return name.starts_with("MANIFEST-") ? Files::kList : Files::kOther;
  }

  static const char* Words(Call call) {
    switch (call) {
      case Call::kWrite:
        return "While appending to file";
      case Call::kSync:
        return "While fdatasync";
      case Call::kRead:
        return "While pread";
    }
    return "";
  }

  std::mutex mutex_;
  std::optional<Fault> fault_;
  uint64_t met_ = 0;
  bool tables_held_ = false;
  std::condition_variable let_go_;
  std::map<std::pair<Files, Call>, uint64_t> calls_;
};

class WritableFile : public FSWritableFileOwnerWrapper {
 public:
  WritableFile(std::unique_ptr<FSWritableFile>&& file, Faults& faults, std::string path)
      : FSWritableFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* context) override {
    IOStatus met = Write(data, options, context);
    return met.ok() ? FSWritableFileOwnerWrapper::Append(data, options, context) : met;
  }

  IOStatus Append(const Slice& data, const IOOptions& options, const DataVerificationInfo& info,
                  IODebugContext* context) override {
    IOStatus met = Write(data, options, context);
    return met.ok() ? FSWritableFileOwnerWrapper::Append(data, options, info, context) : met;
  }

  IOStatus Sync(const IOOptions& options, IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kSync, path_);
    return met.ok() ? FSWritableFileOwnerWrapper::Sync(options, context) : met;
  }

  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kSync, path_);
    return met.ok() ? FSWritableFileOwnerWrapper::Fsync(options, context) : met;
  }

 private:
  // A write that fails has written a part all the same. Of the list of files nothing: one that ends within a record is for an
  // operator to mend.
  IOStatus Write(const Slice& data, const IOOptions& options, IODebugContext* context) {
    IOStatus met = faults_.Meet(Call::kWrite, path_);
    bool is_list = path_.find("/MANIFEST-") != std::string::npos;
    if (!met.ok() && !is_list) {
      Slice part(data.data(), data.size() / 2);
      FSWritableFileOwnerWrapper::Append(part, options, context).PermitUncheckedError();
    }
    return met;
  }

  Faults& faults_;
  const std::string path_;
};

class RandomAccessFile : public FSRandomAccessFileOwnerWrapper {
 public:
  RandomAccessFile(std::unique_ptr<FSRandomAccessFile>&& file, Faults& faults, std::string path)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)) {}

  IOStatus Read(uint64_t offset, size_t length, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* context) const override {
    IOStatus met = faults_.Meet(Call::kRead, path_);
    if (met.ok()) return FSRandomAccessFileOwnerWrapper::Read(offset, length, options, result, scratch, context);
    *result = Slice();
    return met;
  }

  // The system fails each read by itself.
  IOStatus MultiRead(FSReadRequest* requests, size_t count, const IOOptions& options,
                     IODebugContext* context) override {
    for (size_t i = 0; i < count; i++) {
      FSReadRequest& request = requests[i];
      request.status = Read(request.offset, request.len, options, &request.result, request.scratch, context);
    }
    return IOStatus::OK();
  }

 private:
  Faults& faults_;
  const std::string path_;
};

class SequentialFile : public FSSequentialFileOwnerWrapper {
 public:
  SequentialFile(std::unique_ptr<FSSequentialFile>&& file, Faults& faults, std::string path)
      : FSSequentialFileOwnerWrapper(std::move(file)), faults_(faults), path_(std::move(path)) {}

  IOStatus Read(size_t length, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* context) override {
    IOStatus met = faults_.Meet(Call::kRead, path_);
    if (met.ok()) return FSSequentialFileOwnerWrapper::Read(length, options, result, scratch, context);
    *result = Slice();
    return met;
  }

 private:
  Faults& faults_;
  const std::string path_;
};

class FailingFS : public FaultInjectionTestFS {
 public:
  using FaultInjectionTestFS::FaultInjectionTestFS;

  Faults& faults() { return faults_; }

  // That a file cannot be made is a write to it that fails.
  IOStatus NewWritableFile(const std::string& path, const FileOptions& options, std::unique_ptr<FSWritableFile>* file,
                           IODebugContext* context) override {
    IOStatus status = faults_.Meet(Call::kWrite, path);
    if (status.ok()) status = FaultInjectionTestFS::NewWritableFile(path, options, file, context);
    if (status.ok()) *file = std::make_unique<WritableFile>(std::move(*file), faults_, path);
    return status;
  }

  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions& options,
                               std::unique_ptr<FSRandomAccessFile>* file, IODebugContext* context) override {
    IOStatus status = FaultInjectionTestFS::NewRandomAccessFile(path, options, file, context);
    if (status.ok()) *file = std::make_unique<RandomAccessFile>(std::move(*file), faults_, path);
    return status;
  }

  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<FSSequentialFile>* file, IODebugContext* context) override {
    IOStatus status = FaultInjectionTestFS::NewSequentialFile(path, options, file, context);
    if (status.ok()) *file = std::make_unique<SequentialFile>(std::move(*file), faults_, path);
    return status;
  }

 private:
  Faults faults_;
};

}  // namespace powerloss
