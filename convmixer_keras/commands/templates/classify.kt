// $model: $record
// build.gradle: implementation("com.google.mediapipe:tasks-vision:latest.release")
//               implementation("androidx.exifinterface:exifinterface:1.4.1"); $model in src/main/assets
import android.content.Context
import android.graphics.Bitmap
import android.graphics.RectF
import android.net.Uri
import androidx.exifinterface.media.ExifInterface
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.core.ImageProcessingOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier.ImageClassifierOptions

const val WIDTH = $width
const val HEIGHT = $height
const val CROP = ${crop_pct}f // Share of the photograph that the network sees.
const val TURNED = $turned // Whether a photograph is turned as its file or the camera says.

fun open(context: Context): ImageClassifier {
    val base = BaseOptions.builder().setModelAssetPath("$model").build()
    val options = ImageClassifierOptions.builder().setBaseOptions(base).setMaxResults($top).build()
    return ImageClassifier.createFromOptions(context, options)
}

/** Degrees to turn a photograph clockwise. For a frame of CameraX they are imageInfo.rotationDegrees. */
fun degrees(context: Context, photo: Uri): Int =
    context.contentResolver.openInputStream(photo)!!.use { ExifInterface(it).rotationDegrees }

/** The middle of a stored image, of the proportions of width and height, in shares of its sides. */
fun centre(image: Bitmap, width: Int, height: Int): RectF {
    val scale = CROP * minOf(image.width.toFloat() / width, image.height.toFloat() / height)
    val x = scale * width / image.width / 2
    val y = scale * height / image.height / 2
    return RectF(0.5f - x, 0.5f - y, 0.5f + x, 0.5f + y)
}

/** The bitmap must be ARGB_8888, as it is stored: MediaPipe crops it and then turns it. */
fun classify(classifier: ImageClassifier, image: Bitmap, degrees: Int): List<Pair<String, Float>> {
    val turn = if (TURNED) degrees else 0
    val isSwapped = turn % 180 != 0
    val middle = if (isSwapped) centre(image, HEIGHT, WIDTH) else centre(image, WIDTH, HEIGHT)
    val options = ImageProcessingOptions.builder().setRegionOfInterest(middle).setRotationDegrees(turn).build()
    val result = classifier.classify(BitmapImageBuilder(image).build(), options)
    return result.classificationResult().classifications()[0].categories()
        .map { it.categoryName() to it.score() }
}
