// $model: $record
// Podfile: pod 'MediaPipeTasksVision'; $model in the app's bundle
import MediaPipeTasksVision
import UIKit

let inputSize = CGSize(width: $width, height: $height)
let crop: CGFloat = $crop_pct  // Share of the photograph that the network sees.
let isTurned = $turned  // Whether a photograph is turned as its file or the camera says.

func open() throws -> ImageClassifier {
    let options = ImageClassifierOptions()
    options.baseOptions.modelAssetPath = Bundle.main.path(forResource: "$stem", ofType: "tflite")!
    options.maxResults = $top
    return try ImageClassifier(options: options)
}

/// The middle of a photograph in the network's size. Drawing turns it by its imageOrientation, which holds what
/// EXIF says, mirrored ones included, which MediaPipe refuses.
func middle(_ photo: UIImage) -> UIImage {
    let image = isTurned ? photo : UIImage(cgImage: photo.cgImage!)
    let scale = max(inputSize.width / image.size.width, inputSize.height / image.size.height) / crop
    let width = scale * image.size.width
    let height = scale * image.size.height
    let format = UIGraphicsImageRendererFormat()
    format.scale = 1
    return UIGraphicsImageRenderer(size: inputSize, format: format).image { context in
        context.cgContext.interpolationQuality = .high
        image.draw(in: CGRect(x: (inputSize.width - width) / 2, y: (inputSize.height - height) / 2,
                              width: width, height: height))
    }
}

func classify(_ classifier: ImageClassifier, _ photo: UIImage) throws -> [(String, Float)] {
    let result = try classifier.classify(image: MPImage(uiImage: middle(photo)))
    let categories = result.classificationResult.classifications.first?.categories ?? []
    return categories.map { ($$0.categoryName ?? "", $$0.score) }
}
